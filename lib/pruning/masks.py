"""Masks: which channels are off. Planned from scores, applied once, or held at zero while training goes on."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import keras
import numpy as np
from keras import ops

from lib.errors import ConfigError, ModelError
from lib.pruning.channels import ChannelSet, Mode, channel_sets
from lib.pruning.criteria import combined, lowest


@dataclass(frozen=True)
class Masks:
    """The channels that are off.

    Attributes:
        mode: how the sets were formed, see `channel_sets`.
        channels: set name -> indices of the channels that are off, ascending.

    """

    mode: Mode
    channels: dict[str, tuple[int, ...]]

    def to_dict(self) -> dict[str, Any]:
        """A plain dict for JSON; `from_dict` is its inverse."""
        return {"mode": self.mode, "channels": {name: list(indices) for name, indices in self.channels.items()}}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Masks":
        return cls(content["mode"], {name: tuple(indices) for name, indices in content["channels"].items()})


def plan(
    model: keras.Model,
    rates: float | Mapping[str, float],
    criterion: str = "fpgm",
    mode: Mode = "removable",
) -> Masks:
    """Chooses the floor(rate * channels) least important channels of every set, by the model's present weights.

    Args:
        rates: one rate, 0 <= rate < 1, or a mapping from patterns of set names ("context*") to rates; sets that no
            pattern matches keep all channels.
        criterion: "fpgm" or "l1".

    Raises:
        ConfigError: a rate out of range, a pattern that matches nothing, or a set that two patterns match.

    """
    sets = channel_sets(model, mode)
    rate_of = _rate_by_set([item.name for item in sets], rates)
    chosen = {}
    for item in sets:
        kernels = [np.asarray(model.get_layer(name).kernel) for name in item.convolutions]
        chosen[item.name] = lowest(combined(kernels, criterion), rate_of[item.name])
    return Masks(mode, chosen)


def apply_masks(model: keras.Model, masks: Masks) -> None:
    """Zeroes the channels all the way: filter, bias, and gamma and beta of the batch normalisation behind it."""
    for item, off in _off(model, masks):
        for variable in _variables(model, item):
            variable.assign(np.where(off, 0, np.asarray(variable)))


def zero_filters(model: keras.Model, masks: Masks) -> None:
    """Zeroes filters and biases only, so that the channels may grow back (He et al., arXiv 1808.06866).

    With gamma at zero too, no gradient would ever reach the filter again.
    """
    for item, off in _off(model, masks):
        for variable in _filter_variables(model, item):
            variable.assign(np.where(off, 0, np.asarray(variable)))


class HeldMasks:
    """Keeps masked channels at exactly zero while an optimiser works on them.

    The masks are constraints on the variables, so they act inside the compiled training step, after every update,
    whatever the optimiser adds (momentum, weight decay). Make this before the step is compiled; masks can then change
    without compiling again. Nothing of it is saved with the model.
    """

    def __init__(self, model: keras.Model, mode: Mode) -> None:
        self.model = model
        self.mode = mode
        self._constraints: dict[str, _Keep] = {}
        for item in channel_sets(model, mode):
            keep = self._constraints[item.name] = _Keep(item.size)
            for variable in _variables(model, item):
                variable.constraint = keep

    def hold(self, masks: Masks) -> None:
        """Zeroes the masked channels now and after every update."""
        if masks.mode != self.mode:
            raise ModelError(f"masks of mode {masks.mode!r} cannot be held in mode {self.mode!r}")
        apply_masks(self.model, masks)
        for item, off in _off(self.model, masks):
            self._constraints[item.name].kept.assign(~off)

    def release(self) -> None:
        """Lets all channels move again."""
        for keep in self._constraints.values():
            keep.kept.assign(np.ones(keep.kept.shape, bool))


class _Keep(keras.constraints.Constraint):
    """Zero where `kept` [channels] is False, along a variable's last axis."""

    def __init__(self, channels: int) -> None:
        self.kept = keras.Variable(np.ones(channels, bool), trainable=False, dtype="bool", name="kept")

    def __call__(self, w: Any) -> Any:
        return ops.where(self.kept, w, ops.zeros_like(w))


def _rate_by_set(names: list[str], rates: float | Mapping[str, float]) -> dict[str, float]:
    patterns = rates if isinstance(rates, Mapping) else {"*": rates}
    result = dict.fromkeys(names, 0.0)
    matched: dict[str, str] = {}
    for pattern, rate in patterns.items():
        if not 0 <= rate < 1:
            raise ConfigError(f"the pruning rate of {pattern!r} must be at least 0 and below 1, got {rate}")
        hits = [name for name in names if fnmatchcase(name, pattern)]
        if not hits:
            raise ConfigError(f"no set of channels is called {pattern!r}; known: {', '.join(names)}")
        for name in hits:
            if name in matched:
                raise ConfigError(f"{name} has two pruning rates, by {matched[name]!r} and by {pattern!r}")
            matched[name], result[name] = pattern, float(rate)
    return result


def _off(model: keras.Model, masks: Masks) -> list[tuple[ChannelSet, np.ndarray]]:
    """Each set of the model with its boolean array [channels], True where off."""
    sets = {item.name: item for item in channel_sets(model, masks.mode)}
    if sets.keys() != masks.channels.keys():
        wrong = sorted(sets.keys() ^ masks.channels.keys())
        raise ModelError(f"these are masks of another model: {', '.join(wrong)} are not in both")
    pairs = []
    for name, item in sets.items():
        indices = masks.channels[name]
        if indices and not 0 <= min(indices) <= max(indices) < item.size:
            raise ModelError(f"these are masks of another model: {name} has {item.size} channels, masked are {indices}")
        off = np.zeros(item.size, bool)
        off[list(indices)] = True
        pairs.append((item, off))
    return pairs


def _filter_variables(model: keras.Model, item: ChannelSet) -> list[keras.Variable]:
    convolutions = [model.get_layer(name) for name in item.convolutions]
    return [
        v for layer in convolutions for v in (layer.kernel, layer.bias if layer.use_bias else None) if v is not None
    ]


def _variables(model: keras.Model, item: ChannelSet) -> list[keras.Variable]:
    """Everything that must be zero for a channel of the set to be zero; the channel is each variable's last axis."""
    norms = [model.get_layer(name) for name in item.norms]
    scales = [v for layer in norms for v in (layer.gamma, layer.beta) if v is not None]
    return [*_filter_variables(model, item), *scales]
