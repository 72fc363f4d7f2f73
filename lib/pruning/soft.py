"""Soft filter pruning as a callback (He et al., arXiv 1808.06866): zero, go on training, let channels come back."""

import logging
from collections.abc import Mapping
from typing import Any

import keras

from lib.pruning.channels import Mode
from lib.pruning.masks import Masks, apply_masks, plan, zero_filters

logger = logging.getLogger(__name__)


class SoftPruning(keras.callbacks.Callback):
    """Every few epochs the least important channels' filters are set to zero; after the last one for good.

    Args:
        rates, criterion, mode: as for `plan`.
        every: epochs between two prunings.
        first_epoch, last_epoch: the stage's epochs, counted from 0, both included; a pruning follows the last one.

    Attributes:
        masks: the latest masks, None before the first pruning.

    """

    def __init__(
        self,
        rates: float | Mapping[str, float],
        criterion: str,
        mode: Mode,
        every: int,
        first_epoch: int,
        last_epoch: int,
    ) -> None:
        super().__init__()
        self.rates, self.criterion, self.mode = rates, criterion, mode
        self.every, self.first_epoch, self.last_epoch = every, first_epoch, last_epoch
        self.masks: Masks | None = None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        last = epoch == self.last_epoch
        if not last and (epoch + 1 - self.first_epoch) % self.every:
            return
        masks = plan(self.model, self.rates, self.criterion, self.mode)
        if last:
            apply_masks(self.model, masks)
        else:
            zero_filters(self.model, masks)
        if self.masks is not None:
            back = sum(len(set(old) - set(masks.channels[name])) for name, old in self.masks.channels.items())
            logger.info("epoch %d: %d channels pruned before came back", epoch + 1, back)
        self.masks = masks
