"""How weights move: the optimiser and the learning rate by step."""

import math
from dataclasses import dataclass

import keras

from lib.config import Train


@dataclass(frozen=True)
class Rates:
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


def make_optimizer(train: Train) -> keras.optimizers.Optimizer:
    """The optimiser that the settings describe; its rate is set before every step.

    Coupled weight decay is no part of it: that is a term of the loss (`coupled_decay`).
    """
    accumulate = train.accumulate
    # The average is renewed in every step, also in those that only accumulate: k times the k-th root is as one.
    average = {"use_ema": True, "ema_momentum": train.ema ** (1 / accumulate)} if train.ema else {}
    common = {
        "clipvalue": train.clip_value or None,
        "global_clipnorm": train.clip_norm or None,
        "gradient_accumulation_steps": accumulate if accumulate > 1 else None,
        **average,
    }
    optimizer: keras.optimizers.Optimizer
    if train.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(momentum=train.momentum, **common)
    elif train.optimizer == "adamw":
        optimizer = keras.optimizers.AdamW(weight_decay=train.weight_decay_factor, **common)
    else:
        optimizer = keras.optimizers.Adam(**common)
    return keras.optimizers.LossScaleOptimizer(optimizer) if train.mixed_precision == "float16" else optimizer


def coupled_decay(train: Train) -> float:
    """Weight of half the sum of squares in the loss; 0 where the decay is decoupled (adamw) or off.

    Its gradient, factor * weight, is what torch's Adam and SGD add for `weight_decay`: moments and clipping see it.
    """
    return 0.0 if train.optimizer == "adamw" else train.weight_decay_factor
