"""One trial of a search: the snapshot with a plan's channels off, trained for some steps, and validated."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, cast

import keras
from keras import ops

from lib.data.annotations import Record
from lib.data.batches import FaceDataset
from lib.data.images import read_rgb
from lib.data.sources import draw_readable
from lib.errors import TrainingError
from lib.pruning import Masks, repair, shrink
from lib.pruning.choice import Choice
from lib.pruning.shrink import take_over
from lib.search.oracle import Proposal
from lib.search.space import Space
from lib.search.trial_table import rates_of
from lib.search.tuner import Measurement
from lib.training.trainer import Trainer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schooling:
    """How a trial is trained.

    Attributes:
        steps: training steps of a trial; 0: one epoch.
        long_steps: of one of the best, which are tried again.
        learning_rate: of all steps.
        recalibration_batches: batches by which batch statistics are measured anew before validation.
        repair_images: training images on which what a plan leaves is repaired before it is trained; 0: it is not.

    """

    steps: int
    long_steps: int
    learning_rate: float
    recalibration_batches: int
    repair_images: int = 0


class Trials:
    """Measures plans on one trainer: nothing is built, compiled or traced again from one trial to the next.

    All trials see the same batches and start from the same weights, so that they differ by their plans alone.

    Args:
        trainer: holds the model; its present weights are the snapshot that every trial starts from.
        space: of the search.
        train, val: images to train on and to validate on.
        schooling: how.
        choice: which channels of a plan's counts go.
        average_precision: measures the trained model where AP is the objective; None: validation loss is.
        seed: of the images to repair on, and of the positions in them.

    Attributes:
        own_seconds: what the trials cost apart from training, recalibration and validation, together; repairs included.
        seconds: what they cost in all.

    """

    def __init__(
        self,
        trainer: Trainer,
        space: Space,
        train: Sequence[Record],
        val: Sequence[Record],
        *,
        schooling: Schooling,
        choice: Choice,
        average_precision: Callable[[keras.Model], float] | None = None,
        seed: int = 0,
    ) -> None:
        self.trainer, self.space, self.schooling, self.choice = trainer, space, schooling, choice
        self.average_precision = average_precision
        self.own_seconds = self.seconds = 0.0
        self.seed = seed
        self._photographs = draw_readable(train, schooling.repair_images, seed)[0] if schooling.repair_images else []
        self._train = Remembered(trainer.dataset(train, augment=True))
        self._val = Remembered(trainer.dataset(val, augment=False))
        trainer.reset_optimizer()
        # As tensors, which are assigned in half the time that arrays take.
        self._snapshot = [
            (variable, ops.copy(variable))
            for variable in [*trainer.model.variables, *trainer.model.optimizer.variables]
        ]

    def __call__(self, proposal: Proposal) -> Measurement:
        start = perf_counter()
        trainer, schooling = self.trainer, self.schooling
        self._bring_back()
        masks = self._masks(proposal)
        if self._photographs:
            self._repair(masks)
        trainer.held.hold(masks)
        busy = perf_counter()
        steps = schooling.long_steps if proposal.phase == "long" else schooling.steps or len(self._train)
        batches = cast(FaceDataset, self._train)
        trainer.train_steps(batches, 0, steps, schooling.learning_rate)
        batches.epoch = 0
        trainer.recalibrate(batches, schooling.recalibration_batches)
        losses = trainer.validate(self._val)
        measured = self.average_precision(trainer.model) if self.average_precision else None
        self.own_seconds += busy - start
        self.seconds += perf_counter() - start
        if losses["loss"] != losses["loss"]:
            raise TrainingError(f"the validation loss is not a number after {steps} steps")
        return Measurement(losses["loss"], measured)

    @property
    def overhead_percent(self) -> float:
        """Share of the trials' time that went neither into training nor into validation."""
        return 100 * self.own_seconds / (self.seconds or 1)

    def restore(self) -> None:
        """Brings back the snapshot, with all channels."""
        self.trainer.held.release()
        self._bring_back()

    def _bring_back(self) -> None:
        for variable, value in self._snapshot:
            variable.assign(value)

    def _repair(self, masks: Masks) -> None:
        """Solves the layers behind the masked channels anew; the trainer's model takes them over at its own size."""
        model = self.trainer.model
        small = shrink(model, masks)
        boxes = [record.boxes_xyxy_px for record in self._photographs]
        repair(model, small, masks, (read_rgb(record.image) for record in self._photographs), boxes, seed=self.seed)
        take_over(model, small, masks)
        self.trainer.restart_average()

    def _masks(self, proposal: Proposal) -> Masks:
        if self.choice.mode == "removable":
            return self.choice.kept(self.trainer.model, self.space.by_name(proposal.kept))
        # Divisor and least number are met by the plan's counts already.
        exact = replace(self.choice, channel_divisor=1, min_channels=1)
        return exact(self.trainer.model, rates_of(self.space, proposal.kept))


class Remembered(keras.utils.PyDataset):
    """A dataset whose batches are kept in memory, the first so many bytes of them: every trial sees the same ones.

    Args:
        dataset: batches of (images, targets).
        limit_bytes: batches beyond are made anew each time.

    """

    def __init__(self, dataset: FaceDataset, limit_bytes: int = 1 << 30) -> None:
        super().__init__(workers=dataset.workers, max_queue_size=dataset.max_queue_size)
        self.dataset, self._left_bytes = dataset, limit_bytes
        self._batches: dict[tuple[int, int], Any] = {}

    @property
    def epoch(self) -> int:
        return self.dataset.epoch

    @epoch.setter
    def epoch(self, value: int) -> None:
        self.dataset.epoch = value

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        key = (self.epoch, index)
        if key in self._batches:
            return self._batches[key]
        batch = self.dataset[index]
        size = sum(part.nbytes for part in keras.tree.flatten(batch))
        if size <= self._left_bytes:
            self._left_bytes -= size
            self._batches[key] = batch
        return batch
