"""Pruning in steps, with training between them."""

from collections.abc import Iterator, Sequence
from typing import Any

import keras
from numpy.typing import NDArray

from lib.errors import ConfigError
from lib.pruning.budgets import Budget, Quantity
from lib.pruning.cost_model import Cost, CostModel
from lib.pruning.masks import Masks
from lib.pruning.plan import image_size, plan
from lib.pruning.repair import repair
from lib.pruning.shrink import shrink


def prune_stepwise(
    model: keras.Model,
    *,
    steps: int,
    macs: float | None = None,
    parameters: float | None = None,
    size_px: tuple[int, int] | None = None,
    repair_on: Sequence[NDArray[Any]] = (),
    **how: Any,
) -> Iterator[keras.Model]:
    """Takes channels out a few at a time, each time yielding the model that is left, for training.

        for small in prune_stepwise(model, macs=0.5, steps=5):
            train(small)

    Each step leaves the same share of what the one before left, so that the last one leaves the budget's share of the
    model as it was given. Train each model in place, or leave it: the next step starts from its weights. The model that
    was given is not changed; the last model is the result.

    Args:
        steps: at least 1.
        macs, parameters: the budget, one of both, as for `plan`.
        size_px: as for `plan`.
        repair_on: images [H, W, C] on which each model is repaired against the one before (`repair`); () for none.
        how: what else `plan` takes: criterion, scope, round_to, protected, ...

    Raises:
        ConfigError: as `plan`; steps is less than 1, or a budget other than these two.

    """
    if steps < 1 or steps != int(steps):
        raise ConfigError(f"steps must be a whole number of at least 1, got {steps}")
    if (macs is None) == (parameters is None):
        raise ConfigError("give one of macs and parameters")
    quantity: Quantity = "macs" if macs is not None else "parameters"
    share = macs if macs is not None else parameters
    assert share is not None
    Budget(quantity, share).check()
    protected = tuple(how.get("protected", ()))
    size = image_size(model, size_px, needed=quantity == "macs")

    def cost(of: keras.Model) -> float:
        full: Cost = CostModel(of, *size, protected).full
        return float(getattr(full, quantity))

    def left_of(current: keras.Model, step: int) -> Masks:
        left = min(1.0, share ** (step / steps) * whole / cost(current))
        return plan(current, size_px=size, **{quantity: left}, **how)

    def take(masks: Masks) -> Iterator[keras.Model]:
        current = model
        for step in range(1, steps + 1):
            small = shrink(current, masks)
            if len(repair_on):
                repair(current, small, masks, repair_on)
            yield small
            current = small
            if step < steps:
                masks = left_of(current, step + 1)

    whole = cost(model)
    return take(left_of(model, 1))
