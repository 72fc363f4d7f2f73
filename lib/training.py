"""The stages of a run: pretrain or load, soft pruning, fine-tuning under hard masks, evaluation; resume included."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from lib.callbacks import ActivityLog, Checkpoint, PiecewiseRate, StopOnNonFinite, Validation
from lib.config import Config
from lib.cost import count_macs, count_parameters, zero_share
from lib.data.images import read_rgb
from lib.data.loader import FaceDataset
from lib.data.samples import ensure_samples
from lib.data.wider import Record, read_annotations
from lib.detection import FaceDetector
from lib.errors import DataError
from lib.evaluation import IOU_THRESHOLD, evaluate
from lib.export import DetectionSettings
from lib.files import read_json, write_json
from lib.memory import memory_errors
from lib.models import inference_model, load, save
from lib.models.chosen import chosen_model
from lib.models.dsfd import named_ratios
from lib.pruning import GroupSparsity, Masks, SoftPruning, apply_masks, combine, dead_channels, plan
from lib.pruning.planning import Rates
from lib.removal import measured, plan_table, remove
from lib.runs import RunFolder
from lib.sample_picture import write_samples
from lib.trainer import Trainer

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
COMPARED_IMAGES = 8  # validation images that the model without its pruned channels is compared on
RECALIBRATION_BATCHES = 40  # at momentum 0.9 the old statistics then weigh 0.9^40, 1.5 %


@dataclass(frozen=True)
class FaceData:
    """The images of a run.

    Attributes:
        train, val: the annotated images.
        description: one line for the tables: which data the figures come from.

    """

    train: list[Record]
    val: list[Record]
    description: str


@dataclass(frozen=True)
class _Stage:
    """A training stage: its epochs, counted from 0 over the whole run, and its learning rates by step of the stage."""

    name: str
    first_epoch: int
    epochs: int
    rates: tuple[float, ...]
    boundaries: tuple[int, ...]


def load_data(config: Config) -> FaceData:
    """Reads the annotations that the config names, or makes the built-in sample set.

    Raises:
        DataError: annotations or images are unfit, or the validation images have no face to find.

    """
    data, train = config.DATA, config.TRAIN
    if data.train_txt_path:
        root = Path(data.root_path)
        sources = [
            (root / data.train_txt_path, root / data.train_image_dir),
            (root / data.val_txt_path, root / data.val_image_dir),
        ]
        description = f"{data.train_txt_path} and {data.val_txt_path}"
    else:
        samples = ensure_samples(data.sample_path, train.seed)
        sources = [(samples.train_annotations, samples.train_images), (samples.val_annotations, samples.val_images)]
        description = "built-in generated scenes (drawings, not photographs)"
    train_records, val_records = (
        _subset(read_annotations(annotation, images), size, train.seed)
        for (annotation, images), size in zip(sources, (train.train_set_size, train.val_set_size), strict=True)
    )
    if not any(len(record.boxes_xyxy_px) for record in val_records):
        raise DataError(
            f"{sources[1][0]}: no face in the {len(val_records)} validation images; nothing can be measured"
        )
    counts = f"{len(train_records)} training and {len(val_records)} validation images"
    return FaceData(train_records, val_records, f"{description}, {counts}")


def _subset(records: list[Record], size: int, seed: int) -> list[Record]:
    """`size` of the records, drawn by the seed, in their order; 0 means all."""
    if size == 0 or size >= len(records):
        return records
    return [records[i] for i in np.sort(np.random.default_rng(seed).permutation(len(records))[:size])]


def run(
    config: Config,
    fresh: bool = False,
    verbose: int = 2,
    evaluation_progress: Callable[[str], Progress] | None = None,
) -> dict[str, Any]:
    """Runs the stages that the config names, or goes on where the run folder stands.

    Args:
        config: checked settings.
        fresh: start anew even if the folder holds a run; that one is moved aside.
        verbose: Keras' progress display: 0 none, 1 a bar, 2 a line an epoch.
        evaluation_progress: makes, for a stage's name, a function that is called with (images done, images in all).

    Returns:
        The content of `results.json`.

    Raises:
        ToolkitError: settings, data, weights or an earlier run in the folder do not fit; found before any training.

    """
    keras.utils.set_random_seed(config.TRAIN.seed)
    start = chosen_model(config)
    planned = _choose(config)(start, config.PRUNE.rate)  # unfit rates fail now, not after hours
    if config.TRAIN.pruned_alpha:
        ratios = named_ratios(start, config.TRAIN.pruned_ratio)
        GroupSparsity(start, config.TRAIN.pruned_alpha, ratios).detach()  # unfit ratios likewise
    data = load_data(config)
    folder = RunFolder(config.MODEL.model_path)
    folder.open(config, fresh)
    if planned.mode == "removable":
        what = plan_table(inference_model(start), planned, config.DATA.hin, config.DATA.win)
        logger.info("what pruning will leave:\n%s", what)
    stages = _Stages(config, data, folder, start, verbose)
    if config.TRAIN.vis:
        write_samples(folder.path / "samples.png", stages.trainer.dataset(data.train, augment=True))

    first = "imported" if config.MODEL.pretrained_model else "pretrain"
    for stage in [first, *(stage for stage in ("soft_prune", "finetune") if stage in config.TRAIN.stages)]:
        row = next((row for row in folder.state["stages"] if row["stage"] == stage), None)
        if row is None:
            logger.info("stage %s", stage)
            with memory_errors(config.TRAIN.batch_size, config.DATA.hin, config.DATA.win):
                stages.run_stage(stage)
            row = {"stage": stage, "ap": None, **_costs(stages.trainer.model, config)}
            folder.state["stages"].append(row)
            folder.state["progress"] = None
            folder.save_state()
        else:
            logger.info("stage %s: already done", stage)
        if "evaluate" in config.TRAIN.stages and row["ap"] is None:
            progress = evaluation_progress(stage) if evaluation_progress else None
            row["ap"] = _average_precision(folder.outcome(stage), data, config, progress)
            folder.save_state()
    pruned = folder.state["stages"][-1]["stage"] in ("soft_prune", "finetune")
    if pruned and config.PRUNE.mode == "removable":
        _shrink_outcome(config, data, folder, evaluation_progress)
    results = _results(config, data, folder)
    write_json(folder.path / "results.json", results)
    return results


def _choose(config: Config) -> Callable[[keras.Model, Rates], Masks]:
    """Which channels go at which rates, as the config says."""
    prune = config.PRUNE
    return partial(
        plan,
        criterion=prune.criterion,
        mode=prune.mode,
        channel_divisor=prune.channel_divisor,
        min_channels=prune.min_channels,
        seed=config.TRAIN.seed,
    )


def _shrink_outcome(
    config: Config, data: FaceData, folder: RunFolder, evaluation_progress: Callable[[str], Progress] | None
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
        done = remove(masked, masks, images, settings)
        save(done.model, folder.outcome("shrunk"))
        removal = state["removal"] = {
            "of": last,
            "difference": done.difference,
            "images": done.images,
            "same_detections": done.same_detections,
            "row": {"stage": "shrunk", "ap": None, **_costs(done.model, config)},
            "measured": None,
        }
        folder.save_state()
    if evaluates and removal["row"]["ap"] is None:
        progress = evaluation_progress("shrunk") if evaluation_progress else None
        removal["row"]["ap"] = _average_precision(folder.outcome("shrunk"), data, config, progress)
        folder.save_state()
    if evaluates and config.TEST.latency_rounds and removal["measured"] is None:
        models = {stage: load(folder.outcome(stage)) for stage in (first, last, "shrunk")}
        removal["measured"] = measured(models, config.DATA.hin, config.DATA.win, settings, config.TEST.latency_rounds)
        folder.save_state()


def _costs(model: keras.Model, config: Config) -> dict[str, Any]:
    model = inference_model(model)
    return {
        "zero_share": zero_share(model),
        "parameters": count_parameters(model),
        "macs": count_macs(model, config.DATA.hin, config.DATA.win),
    }


def _average_precision(path: Path, data: FaceData, config: Config, progress: Progress | None) -> float:
    """AP of a stage's saved outcome: what is measured is what the user gets."""
    detector = FaceDetector(path, config.TEST.iou_thres, config.TEST.max_detect)
    ap, unreadable = evaluate(detector, data.val, config.TEST.score_thres, progress)
    if unreadable:
        logger.warning("%d validation images could not be used; their faces count as missed", unreadable)
    return ap


def _results(config: Config, data: FaceData, folder: RunFolder) -> dict[str, Any]:
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


class _Stages:
    """The stages of one run, on one trainer."""

    def __init__(self, config: Config, data: FaceData, folder: RunFolder, model: keras.Model, verbose: int) -> None:
        self.config, self.data, self.folder = config, data, folder
        self.trainer = Trainer(model, config)
        self.verbose = verbose

    def run_stage(self, name: str) -> None:
        """Runs a stage from the outcome of the one before, or from its own last checkpoint, and saves its outcome."""
        if name != "imported":
            progress = self._prepare(name)
            if self.trainer.sparsity:  # pulling at the channels that are left would only cost
                self.trainer.sparsity.alpha = 0.0 if name == "finetune" else self.config.TRAIN.pruned_alpha
            stage = self._stage(name)
            epoch = progress["epoch"] if progress else stage.first_epoch
            train = self.trainer.dataset(self.data.train, augment=True, epoch=epoch)
            if name == "soft_prune":
                self.trainer.held.release()
                masks = self._soft_prune(stage, train, progress)
                write_json(self.folder.path / "masks.json", masks.to_dict())
            else:
                if name == "finetune":
                    self.trainer.held.hold(self._hard_masks())
                else:
                    self.trainer.held.release()
                self._fit(stage, train)
                self._take_best()
        self.trainer.save(self.folder.outcome(name))

    def _prepare(self, name: str) -> dict[str, Any] | None:
        """Brings model and optimiser to where the stage stands; returns the stage's progress, None at its start."""
        state = self.folder.state
        progress = state["progress"]
        if progress:
            checkpoint = self.folder.checkpoint(progress["epoch"])
            logger.info("stage %s: going on after epoch %d, from %s", name, progress["epoch"], checkpoint)
            self.trainer.restore(checkpoint)
            return dict(progress)
        if state["stages"]:
            self.trainer.set_weights(load(self.folder.outcome(state["stages"][-1]["stage"])).get_weights())
        self.trainer.reset_optimizer()
        return None

    def _stage(self, name: str) -> _Stage:
        train, prune = self.config.TRAIN, self.config.PRUNE
        earlier = [row["epoch"] for row in self.folder.state["history"] if row["stage"] != name]
        first = max(earlier, default=0)
        if name == "pretrain":
            return _Stage(name, first, train.epoch, train.lr_value_every_step, train.lr_decay_every_step)
        if name == "soft_prune":
            epochs, rate, decays = prune.soft_epoch, prune.soft_lr, prune.soft_lr_decay_epoch
        else:
            epochs, rate, decays = prune.finetune_epoch, prune.finetune_lr, prune.finetune_lr_decay_epoch
        steps = len(self.trainer.dataset(self.data.train, augment=True))
        rates = tuple(rate * 0.1**drop for drop in range(len(decays) + 1))
        return _Stage(name, first, epochs, rates, tuple(epoch * steps for epoch in decays))

    def _fit(self, stage: _Stage, train: FaceDataset, pruning: SoftPruning | None = None) -> None:
        """Keras' loop over the epochs of the stage that are left."""
        last = stage.first_epoch + stage.epochs
        if train.epoch >= last:
            return

        def more_state() -> dict[str, Any]:
            return {"masks": pruning.masks.to_dict()} if pruning and pruning.masks else {}

        recalibration = [_Recalibration(pruning, self.trainer.dataset(self.data.train, True, last))] if pruning else []
        callbacks = [
            PiecewiseRate(stage.rates, stage.boundaries, stage.first_epoch, len(train)),
            StopOnNonFinite(self.folder),
            *([pruning] if pruning else []),
            *recalibration,
            *self._activity_log(),
            Validation(self.trainer.dataset(self.data.val, augment=False)),
            Checkpoint(self.folder, stage.name, more_state),
        ]
        self.trainer.fit(train, last, callbacks, self.verbose)

    def _activity_log(self) -> list[ActivityLog]:
        """Where the group-sparsity loss is at work: what it switches off, on the first batch of validation images."""
        if not self.trainer.sparsity:
            return []
        images, _ = self.trainer.dataset(self.data.val, augment=False)[0]
        return [ActivityLog(images)]

    def _soft_prune(self, stage: _Stage, train: FaceDataset, progress: dict[str, Any] | None) -> Masks:
        prune = self.config.PRUNE
        first_epoch, last_epoch = stage.first_epoch, stage.first_epoch + stage.epochs - 1
        choose = _choose(self.config)
        pruning = SoftPruning(prune.rate, prune.epoch_prune, first_epoch, last_epoch, choose, prune.schedule)
        if progress and "masks" in progress:
            pruning.masks = Masks.from_dict(progress["masks"])
        self._fit(stage, train, pruning)
        assert pruning.masks is not None, "the last epoch ends with a pruning"
        return self._with_dead(pruning.masks)

    def _with_dead(self, masks: Masks) -> Masks:
        """The masks, and the channels that training for sparsity has switched off; these are masked here."""
        count = self.config.PRUNE.calibration_images
        if not (self.trainer.sparsity and count):
            return masks
        prune, images = self.config.PRUNE, self.trainer.dataset(self.data.train[:count], augment=False)
        batches = (images[index][0] for index in range(len(images)))
        dead = dead_channels(self.trainer.model, batches, prune.mode, min_channels=prune.min_channels)
        both = combine(masks, dead)
        more = sum(len(both.channels[name]) - len(masks.channels[name]) for name in masks.channels)
        logger.info("%d more channels are silent on %d images, and go too", more, len(self.data.train[:count]))
        apply_masks(self.trainer.model, both)
        return both

    def _hard_masks(self) -> Masks:
        """The soft stage's masks, or, where there was none, masks by the present weights."""
        saved = self.folder.path / "masks.json"
        if not saved.is_file():
            masks = _choose(self.config)(self.trainer.model, self.config.PRUNE.rate)
            write_json(saved, self._with_dead(masks).to_dict())
        return Masks.from_dict(read_json(saved))

    def _take_best(self) -> None:
        """Takes the weights of the stage's epoch with the lowest validation loss."""
        best = self.folder.state["progress"]["best"]
        logger.info("best validation loss: %.4f after epoch %d", best["val_loss"], best["epoch"])
        self.trainer.set_weights(load(self.folder.checkpoint(best["epoch"])).get_weights())


class _Recalibration(keras.callbacks.Callback):
    """After the soft stage's last pruning: batch statistics measured anew, because the pruned constants are gone."""

    def __init__(self, pruning: SoftPruning, dataset: FaceDataset) -> None:
        super().__init__()
        self.pruning, self.dataset = pruning, dataset

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if epoch == self.pruning.last_epoch:
            for batch in range(RECALIBRATION_BATCHES):
                images, _ = self.dataset[batch % len(self.dataset)]
                self.model(images, training=True)
