"""What the stages of a run share: its folder, its images, its latest model and the one trainer."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import keras

from lib.console import ProgressLine
from lib.data.annotations import Record
from lib.data.batches import FaceDataset, face_dataset
from lib.data.sources import FaceData
from lib.detection import FaceDetector
from lib.detection.formats.pb import DetectionSettings
from lib.errors import TrainingError
from lib.evaluation.ap import evaluate
from lib.files import read_own, write_json
from lib.models import load, save, training_anchors
from lib.pruning import Masks, apply_masks, combine, dead_channels
from lib.pruning.choice import Choice
from lib.pruning.plan import Rates
from lib.runs.folder import RunFolder
from lib.runs.results import costs_of
from lib.runs.state import REMEDY, Row
from lib.search.trial_table import read_rates
from lib.training.devices import scope
from lib.training.trainer import Trainer, TrainerSettings

logger = logging.getLogger(__name__)


@dataclass
class Workbench:
    """The run as its stages see it. They read the latest model here and leave theirs.

    Attributes:
        folder: the run's; what is in it decides where the run stands.
        data: the images.
        start: the model before any stage; it is trained in place.
        training: how trainers are made.
        detection: how faces are detected where AP is measured.
        choice: how channels are chosen.
        rate: PRUNE.rate; `rates` are those that are pruned at.
        cost_size_px: height and width of the input at which multiply-accumulates and milliseconds are counted.
        calibration_images: training images on which channels count as dead, with the group-sparsity loss; 0: off.
        devices: that share every batch.
        verbose: Keras' own display beside the log.
        progress: makes a bar for what is about to run; None: there is none.

    """

    folder: RunFolder
    data: FaceData
    start: keras.Model
    training: TrainerSettings
    detection: DetectionSettings
    choice: Choice
    rate: Rates
    cost_size_px: tuple[int, int] = (480, 640)
    calibration_images: int = 0
    devices: int = 1
    verbose: int = 0
    progress: Callable[[str], ProgressLine] | None = None
    _trainer: Trainer | None = field(default=None, init=False)

    # --- the latest model

    def model(self) -> keras.Model:
        """The model that the last finished stage left, read from its file; before the first stage, the start."""
        latest = self.folder.latest()
        return load(latest) if latest else self.start

    def trainer(self, lock_norms: bool = False) -> Trainer:
        """A trainer of the latest model, with its weights: the one there is, or a new one once channels are gone.

        The group-sparsity loss pulls only at a model that is still whole.

        Args:
            lock_norms: whether batch normalisations stay as they are, which is fine-tuning's affair alone.

        """
        model, trainer = self.model(), self._trainer
        if trainer is None or trainer.settings.lock_norms != lock_norms or _shapes(trainer.model) != _shapes(model):
            whole = _shapes(model) == _shapes(self.start)
            settings = replace(self.training, lock_norms=lock_norms)
            if trainer:
                trainer.detach()
            trainer = self._trainer = None  # frees what it holds before the next is made
            with scope(self.devices):
                if whole:
                    trainer = Trainer(self.start, settings)
                else:
                    model = self.model()
                    trainer = Trainer(model, replace(settings, sparsity=0.0))
            self._trainer = trainer
        if model is not self.start and model is not trainer.model:
            trainer.set_weights(model.get_weights())
        return trainer

    def leave(self, name: str, model: keras.Model | Trainer) -> None:
        """Saves what a stage ended with as `optimized/NAME.keras`; the row is written once the stage is finished."""
        file = self.folder.outcome(name)
        if isinstance(model, Trainer):
            model.save(file)
            model = model.model
        else:
            save(model, file)
        self.folder.state.rows.append(Row(name, **costs_of(model, *self.cost_size_px)))

    # --- images

    def batches(self, records: Sequence[Record], *, augment: bool, model: keras.Model | None = None) -> FaceDataset:
        """Batches for a model (the start, if none is given), as `Trainer.dataset` makes them."""
        anchors, shots = training_anchors(self.start if model is None else model)
        return face_dataset(self.training.batches, records, anchors, augment=augment, shots=shots)

    def average_precision(self, model: keras.Model | Path, records: Sequence[Record], label: str = "") -> float:
        """AP of a detector, in memory or in a file; with a label, a bar shows how far it is."""
        bar = self.progress(label) if self.progress and label else None
        detector = FaceDetector(model, self.detection.iou_threshold, self.detection.max_detections)
        measured, unusable = evaluate(detector, records, self.detection.score_threshold, bar)
        if unusable:
            logger.warning("%d images could not be used; their faces count as missed", unusable)
        return measured

    # --- channels

    @property
    def rates(self) -> Rates:
        """What is pruned at: the rates that were searched for, or else those of the settings."""
        found = self.folder.state.rates
        return read_rates(self.folder.path / found) if found else self.rate

    @property
    def removed(self) -> bool:
        """Whether the pruned channels have been taken out."""
        return self.folder.state.removal is not None

    def masks(self, model: keras.Model) -> Masks:
        """The pruned channels of the latest model: those in `masks.json`, or else chosen now and written there."""
        file = self.folder.path / "masks.json"
        if file.is_file():
            return cast(Masks, read_own(file, Masks, TrainingError, REMEDY))
        masks = self.with_dead(model, self.choice(model, self.rates))
        self.keep_masks(masks)
        return masks

    def keep_masks(self, masks: Masks) -> None:
        """Writes `masks.json`; of several processes, which all have the same, the first does."""
        if self.folder.writes:
            write_json(self.folder.path / "masks.json", masks.to_dict())

    def with_dead(self, model: keras.Model, masks: Masks) -> Masks:
        """The masks, and the channels that training for sparsity has switched off; these are masked here."""
        if not (self.training.sparsity and self.calibration_images):
            return masks
        records = self.data.train[: self.calibration_images]
        images = self.batches(records, augment=False, model=model)
        batches = (images[index][0] for index in range(len(images)))
        choice = self.choice
        dead = dead_channels(model, batches, choice.mode, choice.protected, choice.min_channels)
        both = combine(masks, dead)
        more = sum(len(both.channels[name]) - len(masks.channels[name]) for name in masks.channels)
        logger.info("%d more channels are silent on %d images, and go too", more, len(records))
        apply_masks(model, both)
        return both


def _shapes(model: keras.Model) -> list[tuple[str, tuple[int, ...]]]:
    return [(variable.path, tuple(variable.shape)) for variable in model.weights]
