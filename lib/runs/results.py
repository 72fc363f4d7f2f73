"""What a run came to: the content of `results.json`, a row a model, and how its figures were measured."""

from typing import Any

import keras

from lib.detection.formats.pb import DetectionSettings
from lib.errors import TrainingError
from lib.evaluation.ap import IOU_THRESHOLD
from lib.files import read_own
from lib.models import inference_model
from lib.pruning.cost import count_macs, count_parameters, zero_share
from lib.runs.folder import RunFolder
from lib.runs.state import REMEDY

_IF_MEASURED = ("pb_bytes", "latency_ms")


def costs_of(model: keras.Model, height_px: int, width_px: int) -> dict[str, Any]:
    """What detecting with a model costs at an input size: a row's `zero_share`, `parameters` and `macs`."""
    model = inference_model(model)
    return {
        "zero_share": zero_share(model),
        "parameters": count_parameters(model),
        "macs": count_macs(model, height_px, width_px),
    }


def protocol_of(detection: DetectionSettings) -> str:
    """How AP is measured, for tables."""
    return (
        f"single scale at each image's own size, score >= {detection.score_threshold:g}, "
        f"NMS at IoU {detection.iou_threshold:g}, at most {detection.max_detections} boxes; "
        f"AP over all scores at IoU {IOU_THRESHOLD:g}, all faces count"
    )


def results_of(
    folder: RunFolder, description: str, detection: DetectionSettings, height_px: int, width_px: int
) -> dict[str, Any]:
    """The content of `results.json`.

    Args:
        folder: the run's.
        description: of the data.
        detection: how AP was measured.
        height_px, width_px: input size at which multiply-accumulates were counted and milliseconds measured.

    """
    state, rows = folder.state, []
    for row in state.rows:
        measured = {name: value for name in _IF_MEASURED if (value := getattr(row, name)) is not None}
        rows.append(
            {
                "stage": row.stage,
                "ap": row.ap,
                "zero_share": row.zero_share,
                "parameters": row.parameters,
                "macs": row.macs,
                "keras_bytes": folder.outcome(row.stage).stat().st_size,
                **measured,
            }
        )
    content: dict[str, Any] = {"stages": rows}
    if state.removal:
        content["removal"] = {"of": state.removal.of, **vars(state.removal.proof)}
    if state.repair:
        content["repair"] = state.repair
    if state.rates:
        content["search"] = [
            read_own(file, dict[str, Any], TrainingError, REMEDY)
            for file in sorted(folder.path.glob("rates_*.json"), reverse=True)
        ]
    return {
        **content,
        "data": description,
        "protocol": protocol_of(detection),
        "macs_at": f"{height_px}x{width_px} (height x width)",
    }
