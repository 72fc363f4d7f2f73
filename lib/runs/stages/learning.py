"""Stages that train: from nothing, under soft pruning, and what pruning left."""

import logging
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import keras

from lib.data.batches import FaceDataset
from lib.data.sources import subset
from lib.errors import ConfigError
from lib.models import load
from lib.pruning import Masks, SoftPruning
from lib.pruning.schedule import ScheduleName
from lib.runs.stages.base import Stage, Thing
from lib.runs.workbench import Workbench
from lib.training.callbacks import (
    ActivityLog,
    Checkpoint,
    LearningRate,
    PrecisionLog,
    StopOnNonFinite,
    StopWithoutFaces,
    Validation,
)
from lib.training.logs import EventLog, ProgressBar
from lib.training.memory import memory_errors
from lib.training.optimizer import LearningRates
from lib.training.processes import meet, others_there
from lib.training.trainer import Trainer

logger = logging.getLogger(__name__)

RECALIBRATION_BATCHES = 40


@dataclass(frozen=True)
class Course:
    """How long a stage trains, and at which rates.

    Attributes:
        epochs: of the stage.
        values: the rates of its pieces.
        steps: updates at which the next piece begins, or
        decay_epochs: the stage's epochs at which it does.
        warmup, cosine: see `LearningRates`.

    """

    epochs: int
    values: tuple[float, ...]
    steps: tuple[int, ...] = ()
    decay_epochs: tuple[int, ...] = ()
    warmup: int = 0
    cosine: bool = False

    def rates(self, updates_per_epoch: int) -> LearningRates:
        """The rate by update."""
        boundaries = self.steps or tuple(epoch * updates_per_epoch for epoch in self.decay_epochs)
        return LearningRates(
            self.values, boundaries, self.warmup, self.epochs * updates_per_epoch if self.cosine else 0
        )


@dataclass(frozen=True)
class Watch:
    """What is kept and shown while a stage trains; none of it changes a weight.

    Attributes:
        checkpoint_every_step, keep_checkpoints: see `Checkpoint`.
        log_interval: steps between two points in TensorBoard's files; 0: epochs only.
        ap_every_epoch: epochs between two measurements of AP; 0: off.
        ap_images: validation images for it, drawn by the seed.

    """

    checkpoint_every_step: int = 0
    keep_checkpoints: int = 0
    log_interval: int = 100
    ap_every_epoch: int = 0
    ap_images: int = 100


class Learning(Stage):
    """A stage that trains the latest model by a course; its checkpoints are where it goes on from."""

    leaves: ClassVar[tuple[Thing, ...]] = ("model",)
    shared = True

    lock_norms: bool = False

    def __init__(self, course: Course, watch: Watch) -> None:
        self.course, self.watch = course, watch

    def check_length(self, bench: Workbench) -> None:
        images, batch_size = len(bench.data.train), bench.training.batches.batch_size
        batches, accumulate = max(1, images // batch_size), bench.training.optimizer.accumulate
        if accumulate > batches:
            raise ConfigError(
                f"TRAIN.accumulate = {accumulate}, but an epoch has {batches} batches ({images} images, "
                f"TRAIN.batch_size = {batch_size}): it would end before its first update"
            )
        updates = self.course.epochs * (batches // accumulate)
        if self.course.warmup >= updates:
            raise ConfigError(
                f"TRAIN.warmup_step = {self.course.warmup}, but the stage {self.name!r} has {updates} updates: it "
                "would end before it has its learning rate"
            )
        late = [step for step in self.course.steps if step >= updates]
        late += [epoch for epoch in self.course.decay_epochs if epoch >= self.course.epochs]
        if late and not self.course.cosine:
            logger.warning(
                "stage %s: its rate is to fall at %s, but it ends before (%d epochs, %d updates)",
                self.name,
                late,
                self.course.epochs,
                updates,
            )

    def run(self, bench: Workbench) -> None:
        self.train(bench, self.name, self.epochs_before(bench))

    def epochs_before(self, bench: Workbench) -> int:
        """How many epochs the stages before this one have trained for."""
        return max((row["epoch"] for row in bench.folder.history if row["stage"] != self.name), default=0)

    def train(self, bench: Workbench, outcome: str, first: int) -> None:
        """Trains the latest model by the course, or goes on from its last checkpoint.

        Args:
            outcome: what the model is called that is left.
            first: the training's first epoch, counted from 0 over the whole run.

        """
        folder, trainer = bench.folder, bench.trainer(self.lock_norms)
        if checkpoint := folder.last_checkpoint():
            logger.info("stage %s: going on from %s", self.name, checkpoint)
            trainer.restore(checkpoint)
        else:
            trainer.reset_optimizer()
        train = trainer.dataset(bench.data.train, True, folder.position.epoch if folder.position else first)
        batches = bench.training.batches
        with others_there(), memory_errors(batches.batch_size, batches.height_px, batches.width_px):
            self.learn(bench, trainer, train, first)
        bench.leave(outcome, trainer)

    @abstractmethod
    def learn(self, bench: Workbench, trainer: Trainer, train: FaceDataset, first_epoch: int) -> None:
        """Trains from the dataset's epoch up to the stage's end; afterwards the trainer has the stage's weights.

        Args:
            first_epoch: the training's first epoch, counted from 0 over the whole run.

        """

    def fit(
        self,
        bench: Workbench,
        trainer: Trainer,
        train: FaceDataset,
        first_epoch: int,
        pruning: SoftPruning | None = None,
    ) -> None:
        """Keras' loop over what is left of the stage."""
        last = first_epoch + self.course.epochs
        if train.epoch >= last:
            return
        folder, watch, accumulate = bench.folder, self.watch, bench.training.optimizer.accumulate
        rates = self.course.rates(len(train) // accumulate)
        validation = trainer.dataset(bench.data.val, augment=False)
        callbacks: list[keras.callbacks.Callback] = [
            LearningRate(rates, first_epoch, len(train), accumulate),
            StopOnNonFinite(folder.last_checkpoint, train.image_names, watch.checkpoint_every_step),
        ]
        if any(len(record.boxes_xyxy_px) for record in train.records):
            callbacks.append(StopWithoutFaces())
        if bench.progress and folder.writes:
            callbacks.append(ProgressBar(bench.progress(self.name), last, len(train), train.batch_size))
        if pruning:
            callbacks += [_WholeModel(trainer, folder.before_masks, pruning.last_epoch), pruning]
            seen = trainer.dataset(bench.data.train, True, last)
            seen.rows = (0, seen.batch_size)  # of several processes each measures the statistics of whole batches
            callbacks += [_AfterPruning(pruning, trainer, seen)]
        if trainer.sparsity:  # what it switches off, on the first batch of validation images
            callbacks.append(ActivityLog(trainer.model, validation[0][0]))
        callbacks.append(Validation(trainer, validation))
        if watch.ap_every_epoch:
            measure = self._present_precision(bench, trainer)
            callbacks.append(PrecisionLog(measure, watch.ap_every_epoch, first_epoch))
        if folder.writes:
            callbacks.append(EventLog(folder.path / "tensorboard", watch.log_interval, len(train)))
        checkpoint = Checkpoint(
            folder,
            self.name,
            trainer,
            masks=lambda: pruning.masks if pruning else None,
            every=watch.checkpoint_every_step,
            keep=watch.keep_checkpoints,
        )
        callbacks.append(checkpoint)
        trainer.fit(train, last, callbacks, bench.verbose, folder.position.batch if folder.position else 0)
        meet(f"{self.name} is trained")  # before its best checkpoint is read

    def take_best(self, bench: Workbench, trainer: Trainer) -> None:
        """Takes the weights of the stage's epoch with the lowest validation loss."""
        assert bench.folder.position is not None, "an epoch has ended"
        best = bench.folder.position.best
        assert best is not None, "an epoch has ended"
        logger.info("best validation loss: %.4f after epoch %d", best.val_loss, best.epoch)
        trainer.set_weights(load(bench.folder.checkpoint(best.epoch)).get_weights())

    def _present_precision(self, bench: Workbench, trainer: Trainer) -> Callable[[], float]:
        """Measures AP of the present weights on a part of the validation images."""
        records = subset(bench.data.val, self.watch.ap_images, bench.training.batches.seed)

        def measure() -> float:
            with TemporaryDirectory() as folder:
                path = Path(folder) / "present.keras"
                trainer.save(path)
                return bench.average_precision(path, records)

        return measure


class Pretrain(Learning):
    """Trains a new model."""

    name = "pretrain"
    needs = ()

    def learn(self, bench: Workbench, trainer: Trainer, train: FaceDataset, first_epoch: int) -> None:
        trainer.held.release()
        _pull(trainer, bench.training.sparsity)
        self.fit(bench, trainer, train, first_epoch)
        self.take_best(bench, trainer)


class Import(Stage):
    """Takes a model that is trained already, in the place of `Pretrain`."""

    name = "pretrain"
    needs = ()
    leaves = ("model",)
    shared = True

    def run(self, bench: Workbench) -> None:
        bench.leave("imported", bench.trainer())


class SoftPrune(Learning):
    """Trains while the least important channels are set to zero every few epochs; the last time for good.

    Args:
        every: epochs between two prunings.
        schedule: how the rates grow.

    """

    name = "soft_prune"
    leaves = ("model", "masks")

    def __init__(self, course: Course, watch: Watch, every: int, schedule: ScheduleName) -> None:
        super().__init__(course, watch)
        self.every, self.schedule = every, schedule

    def learn(self, bench: Workbench, trainer: Trainer, train: FaceDataset, first_epoch: int) -> None:
        trainer.held.release()
        _pull(trainer, bench.training.sparsity)
        last_epoch = first_epoch + self.course.epochs - 1
        pruning = SoftPruning(bench.rates, self.every, first_epoch, last_epoch, bench.choice, self.schedule)
        if bench.folder.position:
            pruning.masks = bench.folder.position.masks
        self.fit(bench, trainer, train, first_epoch, pruning)
        assert pruning.masks is not None, "the last epoch ends with a pruning"
        bench.keep_masks(bench.with_dead(trainer.model, pruning.masks))


class Finetune(Learning):
    """Trains what pruning left: the small model, or, where nothing was taken out, the whole one with masks held.

    Args:
        lock_norms: whether the batch normalisations stay as they are meanwhile.

    """

    name = "finetune"

    def __init__(self, course: Course, watch: Watch, lock_norms: bool = False) -> None:
        super().__init__(course, watch)
        self.lock_norms = lock_norms

    def learn(self, bench: Workbench, trainer: Trainer, train: FaceDataset, first_epoch: int) -> None:
        _pull(trainer, 0.0)  # pulling at the channels that are left would only cost
        if bench.removed:
            trainer.held.release()
        else:
            trainer.held.hold(bench.masks(trainer.model))
        self.fit(bench, trainer, train, first_epoch)
        self.take_best(bench, trainer)


def _pull(trainer: Trainer, alpha: float) -> None:
    if trainer.sparsity:
        trainer.sparsity.alpha = alpha


class _WholeModel(keras.callbacks.Callback):
    """Keeps the model that the last pruning sets channels to zero of: a repair aims at what it says."""

    def __init__(self, trainer: Trainer, path: Path, last_epoch: int) -> None:
        super().__init__()
        self.trainer, self.path, self.last_epoch = trainer, path, last_epoch

    def on_epoch_end(self, epoch: int, logs: dict[str, object] | None = None) -> None:
        if epoch == self.last_epoch:
            self.trainer.write(self.path)


class _AfterPruning(keras.callbacks.Callback):
    """What a soft pruning invalidates: averaged weights, and after the last one batch statistics, are made anew.

    The statistics still hold the constants that the pruned channels were.
    """

    def __init__(self, pruning: SoftPruning, trainer: Trainer, dataset: FaceDataset) -> None:
        super().__init__()
        self.pruning, self.trainer, self.dataset = pruning, trainer, dataset
        self.masks: Masks | None = pruning.masks

    def on_epoch_end(self, epoch: int, logs: dict[str, object] | None = None) -> None:
        if self.pruning.masks is not self.masks:
            self.masks = self.pruning.masks
            self.trainer.restart_average()
        if epoch == self.pruning.last_epoch:
            self.trainer.recalibrate(self.dataset, RECALIBRATION_BATCHES)
