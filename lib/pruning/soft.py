"""Soft filter pruning as a callback (He et al., arXiv 1808.06866): zero, go on training, let channels come back."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import keras

from lib.pruning.masks import Masks, apply_masks, zero_softly
from lib.pruning.plan import Rates, plan
from lib.pruning.schedule import ScheduleName, pruning_schedule

logger = logging.getLogger(__name__)


class SoftPruning(keras.callbacks.Callback):
    """Every few epochs the least important channels are set to zero, softly; after the last epoch for good.

    The optimiser and its state are left alone.

    Args:
        rates: as for `plan`.
        every: epochs between two prunings.
        first_epoch, last_epoch: the stage's epochs, counted from 0, both included; a pruning follows the last one.
        choose: names the channels that go, from the model and the rates: `plan`, or `functools.partial` of it.
        schedule: how the rates grow, see `pruning_schedule`.

    Attributes:
        masks: the latest masks, None before the first pruning.

    """

    def __init__(
        self,
        rates: Rates,
        every: int,
        first_epoch: int,
        last_epoch: int,
        choose: Callable[[keras.Model, Rates], Masks] = plan,
        schedule: ScheduleName = "constant",
    ) -> None:
        super().__init__()
        self.choose = choose
        self.first_epoch, self.last_epoch = first_epoch, last_epoch
        epochs, patterns = last_epoch + 1 - first_epoch, rates if isinstance(rates, Mapping) else {"*": rates}
        self._schedules = {name: pruning_schedule(schedule, rate, every, epochs) for name, rate in patterns.items()}
        self.masks: Masks | None = None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        last = epoch == self.last_epoch
        due = {pattern: schedule(epoch + 1 - self.first_epoch) for pattern, schedule in self._schedules.items()}
        if not any(now for now, _ in due.values()):
            return
        rates = {pattern: rate for pattern, (_, rate) in due.items()}
        masks = self.choose(self.model, rates)
        if last:
            apply_masks(self.model, masks)
        else:
            zero_softly(self.model, masks)
        self._report(epoch, masks)
        self.masks = masks

    def _report(self, epoch: int, masks: Masks) -> None:
        old = self.masks.channels if self.masks else {}
        back = sum(len(set(indices) - set(masks.channels[name])) for name, indices in old.items())
        logger.info(
            "epoch %d: %d channels set to zero; of the %d before, %d came back",
            epoch + 1,
            sum(map(len, masks.channels.values())),
            sum(map(len, old.values())),
            back,
        )
