"""What the models of a run cost and reach: AP, the smaller model at the end, the content of `results.json`."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from lib.config import Config
from lib.data.annotations import Record
from lib.data.images import read_rgb
from lib.data.sources import FaceData
from lib.detection import FaceDetector
from lib.detection.formats.pb import DetectionSettings
from lib.evaluation.ap import IOU_THRESHOLD, evaluate
from lib.files import read_json
from lib.models import inference_model, load, save
from lib.pruning import Masks
from lib.pruning.cost import count_macs, count_parameters, zero_share
from lib.runs.folder import RunFolder
from lib.runs.removal import measured, remove
from lib.training.logs import Progress

logger = logging.getLogger(__name__)

COMPARED_IMAGES = 8  # validation images that the model without its pruned channels is compared on


def shrink_outcome(
    config: Config, data: FaceData, folder: RunFolder, progress: Callable[[str], Progress] | None
) -> None:
    """Takes the pruned channels out of the last stage's outcome, and measures what that brought."""
    state, evaluates = folder.state, "evaluate" in config.TRAIN.stages
    first, last = state["stages"][0]["stage"], state["stages"][-1]["stage"]
    settings = DetectionSettings(config.TEST.score_thres, config.TEST.iou_thres, max_detections=config.TEST.max_detect)
    removal = state.get("removal")
    if not removal or removal["of"] != last:
        logger.info("taking the pruned channels out of %s", last)
        masked, masks = load(folder.outcome(last)), Masks.from_dict(read_json(folder.path / "masks.json"))
        images = [read_rgb(record.image) for record in data.val[:COMPARED_IMAGES]]
        done = remove(masked, masks, images)
        save(done.model, folder.outcome("shrunk"))
        removal = state["removal"] = {
            "of": last,
            **{key: value for key, value in vars(done).items() if key != "model"},
            "row": {"stage": "shrunk", "ap": None, **costs_of(done.model, config)},
            "measured": None,
        }
        folder.save_state()
    if evaluates and removal["row"]["ap"] is None:
        bar = progress("evaluating shrunk") if progress else None
        removal["row"]["ap"] = average_precision(folder.outcome("shrunk"), data.val, config, bar)
        folder.save_state()
    if evaluates and config.TEST.latency_rounds and removal["measured"] is None:
        models = {stage: load(folder.outcome(stage)) for stage in (first, last, "shrunk")}
        removal["measured"] = measured(models, config.DATA.hin, config.DATA.win, settings, config.TEST.latency_rounds)
        folder.save_state()


def costs_of(model: keras.Model, config: Config) -> dict[str, Any]:
    """What detecting with a model costs, at the config's input size: a row's `zero_share`, `parameters` and `macs`."""
    model = inference_model(model)
    return {
        "zero_share": zero_share(model),
        "parameters": count_parameters(model),
        "macs": count_macs(model, config.DATA.hin, config.DATA.win),
    }


def average_precision(path: Path, records: list[Record], config: Config, progress: Progress | None) -> float:
    """AP of a stage's saved outcome: what is measured is what the user gets."""
    detector = FaceDetector(path, config.TEST.iou_thres, config.TEST.max_detect)
    ap, unreadable = evaluate(detector, records, config.TEST.score_thres, progress)
    if unreadable:
        logger.warning("%d validation images could not be used; their faces count as missed", unreadable)
    return ap


def results_of(config: Config, data: FaceData, folder: RunFolder) -> dict[str, Any]:
    """The content of `results.json`: a row a stage, and what the figures were measured on and how."""
    test, removal = config.TEST, folder.state.get("removal")
    rows = [*folder.state["stages"], *([removal["row"]] if removal else [])]
    figures = (removal and removal["measured"]) or {}
    return {
        "stages": [
            {**row, "keras_bytes": folder.outcome(row["stage"]).stat().st_size, **figures.get(row["stage"], {})}
            for row in rows
        ],
        **({"removal": {key: removal[key] for key in removal if key not in ("row", "measured")}} if removal else {}),
        "data": data.description,
        "protocol": f"single scale at each image's own size, score >= {test.score_thres:g}, "
        f"NMS at IoU {test.iou_thres:g}, at most {test.max_detect} boxes; "
        f"AP over all scores at IoU {IOU_THRESHOLD:g}, all faces count",
        "macs_at": f"{config.DATA.hin}x{config.DATA.win} (height x width)",
    }
