"""How weights move: the optimiser and the learning rate by step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import keras
from keras import ops


@dataclass(frozen=True)
class OptimizerSettings:
    """Which optimiser, and what it does beside taking steps; the rate is set before every step.

    Attributes:
        name: "adam", "adamw", "muon" (see `Muon`) or "sgd".
        momentum: of "sgd".
        weight_decay: factor; decoupled with "adamw" and "muon", with the others a term of the loss (`coupled_decay`);
            0: none.
        clip_value: gradients are clipped to -this..this; 0: off.
        clip_norm: gradients are scaled so that the norm of all is at most this; 0: off.
        accumulate: batches for one update.
        ema: momentum by which averaged weights are kept, by update; 0: none are.
        scale_loss: whether the loss is scaled for float16 gradients.

    """

    name: Literal["adam", "adamw", "muon", "sgd"] = "adamw"
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


@keras.saving.register_keras_serializable(package="face_pruning")
class Muon(keras.optimizers.Muon):
    """Keras' Muon for kernels of convolutions too: one of [h, w, in, out] is taken for the matrix [h w in, out].

    The momentum of a matrix is made orthogonal, nearly, before it moves it, as large as a step of Adam would be (Liu et
    al., arXiv 2502.16982, equation 4), so that a rate for AdamW is one for Muon. What is no matrix goes by AdamW.

    Args:
        matrices: the paths of the variables that are; for a detector see `inner_kernels`.
        options: of `keras.optimizers.Muon`.

    """

    def __init__(self, matrices: Sequence[str] = (), **options: Any) -> None:
        super().__init__(**options)
        self.matrices = tuple(matrices)

    def _should_use_adamw(self, variable: keras.Variable) -> bool:
        return variable.path not in self.matrices

    def zeropower_via_newtonschulz5(self, x: Any, steps: int) -> Any:
        return ops.reshape(super().zeropower_via_newtonschulz5(ops.reshape(x, (-1, x.shape[-1])), steps), x.shape)

    def lr_adjust(self, x: Any) -> Any:
        return ops.reshape(super().lr_adjust(ops.reshape(x, (-1, x.shape[-1]))), x.shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "matrices": list(self.matrices)}


def make_optimizer(settings: OptimizerSettings, matrices: Sequence[str] = ()) -> keras.optimizers.Optimizer:
    """The optimiser that the settings describe; its rate is set before every step.

    Coupled weight decay is no part of it: that is a term of the loss (`coupled_decay`).

    Args:
        settings: see there.
        matrices: of "muon", see `Muon`.

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
    elif settings.name == "muon":
        decay = {"weight_decay": settings.weight_decay, "adam_weight_decay": settings.weight_decay}
        optimizer = Muon(matrices, **decay, **common)
    else:
        optimizer = keras.optimizers.Adam(**common)
    return keras.optimizers.LossScaleOptimizer(optimizer) if settings.scale_loss else optimizer


def coupled_decay(settings: OptimizerSettings) -> float:
    """Weight of half the sum of squares in the loss; 0 where the decay is decoupled (adamw, muon) or off.

    Its gradient, factor * weight, is what torch's Adam and SGD add for `weight_decay`: moments and clipping see it.
    """
    return 0.0 if settings.name in ("adamw", "muon") else settings.weight_decay
