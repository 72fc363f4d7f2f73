"""How weights move: the optimiser and the learning rate by step."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import keras


@dataclass(frozen=True)
class OptimizerSettings:
    """Which optimiser, and what it does beside taking steps; the rate is set before every step.

    Attributes:
        name: "adam", "adamw" or "sgd".
        momentum: of "sgd".
        weight_decay: factor; decoupled with "adamw", a term of the loss with the others (`coupled_decay`); 0: none.
        clip_value: gradients are clipped to -this..this; 0: off.
        clip_norm: gradients are scaled so that the norm of all is at most this; 0: off.
        accumulate: batches for one update.
        ema: momentum by which averaged weights are kept, by update; 0: none are.
        scale_loss: whether the loss is scaled for float16 gradients.

    """

    name: Literal["adam", "adamw", "sgd"] = "adamw"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip_value: float = 0.0
    clip_norm: float = 0.0
    accumulate: int = 1
    ema: float = 0.0
    scale_loss: bool = False


@dataclass(frozen=True)
class LearningRates:
    """Learning rate by update of a stage, counted from 0. It depends on the update alone, so a restart finds it again.

    Attributes:
        values: the rates of the pieces, one more than `boundaries`; a cosine runs from the first to the last.
        boundaries: updates at which the next value begins.
        warmup: updates over which the rate rises linearly from 0 to what it would be; 0: none.
        cosine: updates of the whole stage, over which the rate falls as half a cosine; 0: piecewise constant.

    """

    values: tuple[float, ...]
    boundaries: tuple[int, ...] = ()
    warmup: int = 0
    cosine: int = 0

    def at(self, update: int) -> float:
        """The rate of an update."""
        if self.cosine:
            done = min(1.0, max(0, update - self.warmup) / max(1, self.cosine - self.warmup))
            first, last = self.values[0], self.values[-1]
            rate = last + (first - last) * (1 + math.cos(math.pi * done)) / 2
        else:
            rate = self.values[sum(update >= boundary for boundary in self.boundaries)]
        return rate * (update + 1) / self.warmup if update < self.warmup else rate


def make_optimizer(settings: OptimizerSettings) -> keras.optimizers.Optimizer:
    """The optimiser that the settings describe; its rate is set before every step.

    Coupled weight decay is no part of it: that is a term of the loss (`coupled_decay`).
    """
    accumulate = settings.accumulate
    # The average is renewed in every step, also in those that only accumulate: k times the k-th root is as one.
    average = {"use_ema": True, "ema_momentum": settings.ema ** (1 / accumulate)} if settings.ema else {}
    common: dict[str, Any] = {
        "clipvalue": settings.clip_value or None,
        "global_clipnorm": settings.clip_norm or None,
        "gradient_accumulation_steps": accumulate if accumulate > 1 else None,
        **average,
    }
    optimizer: keras.optimizers.Optimizer
    if settings.name == "sgd":
        optimizer = keras.optimizers.SGD(momentum=settings.momentum, **common)
    elif settings.name == "adamw":
        optimizer = keras.optimizers.AdamW(weight_decay=settings.weight_decay, **common)
    else:
        optimizer = keras.optimizers.Adam(**common)
    return keras.optimizers.LossScaleOptimizer(optimizer) if settings.scale_loss else optimizer


def coupled_decay(settings: OptimizerSettings) -> float:
    """Weight of half the sum of squares in the loss; 0 where the decay is decoupled (adamw) or off.

    Its gradient, factor * weight, is what torch's Adam and SGD add for `weight_decay`: moments and clipping see it.
    """
    return 0.0 if settings.name == "adamw" else settings.weight_decay
