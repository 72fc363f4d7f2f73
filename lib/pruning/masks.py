"""Masks: which channels are off. Applied once, or held at zero while training goes on."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from lib.arrays import BoolArray, IntArray
from lib.errors import ModelError
from lib.pruning.graph.channels import ChannelGraph
from lib.pruning.graph.flow import Ports
from lib.pruning.graph.kinds import WEIGHTED
from lib.pruning.graph.sets import Mode, SetMap
from lib.pruning.graph.silence import Silence, silence
from lib.pruning.graph.weights import written

DOOR = 1e-6  # the offset of a softly zeroed channel: nothing beside its neighbours, and above zero


@dataclass(frozen=True)
class Masks:
    """The channels that are off.

    Attributes:
        mode: how the sets were formed, see `channel_sets`.
        channels: set name -> indices of the channels that are off, ascending.
        protected: patterns of layer names that the sets were formed with, see `channel_sets`.

    """

    mode: Mode
    channels: dict[str, tuple[int, ...]]
    protected: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """A plain dict for JSON; `from_dict` is its inverse."""
        channels = {name: list(indices) for name, indices in self.channels.items()}
        return {"mode": self.mode, "channels": channels, "protected": list(self.protected)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Masks":
        channels = {name: tuple(indices) for name, indices in content["channels"].items()}
        return cls(content["mode"], channels, tuple(content.get("protected", ())))


def apply_masks(model: keras.Model, masks: Masks) -> None:
    """Zeroes the channels all the way: filter, bias, and gamma and beta of the batch normalisation behind it.

    Where a set is emptied, layers that only it fed are zeroed likewise (`lib.pruning.graph.silence`), so that the model
    computes what `shrink` leaves of it.

    Raises:
        ModelError: these are masks of another model.
        ConfigError: the model cannot work without these channels.

    """
    for port, off in _off(model, masks):
        for variable, channel in written(port.layer, port.kind):
            _set(variable, off[channel], 0.0)


def zero_softly(model: keras.Model, masks: Masks) -> None:
    """Zeroes the channels so that they may grow back (He et al., arXiv 1808.06866, section 3.2).

    There the filter is set to zero. Here what scales it is: gamma and beta where batch normalisation follows, filter
    and bias else. Normalisation undoes the scale of the filter before it, so that a zeroed one is back at full strength
    after a step, pointing anywhere; gamma grows back at the learning rate's pace, with the filter's direction kept.
    Beta, or the bias, becomes `DOOR` rather than 0: at exactly 0 a ReLU's gradient is 0, and nothing would come back.
    """
    graph = ChannelGraph(model, masks.protected)
    placed = SetMap(graph, masks.mode)
    scaled = np.zeros(placed.slots, bool)  # whose strength a gamma sets
    for port in graph.ports.values():
        if port.kind == "norm" and port.layer.scale:
            scaled[placed.slot_of[port.outward]] = True
    for port, off in _off(model, masks):
        offset = port.layer.beta if port.kind == "norm" else getattr(port.layer, "bias", None)
        now = off if port.kind == "norm" else off & ~scaled[placed.slot_of[port.outward]]
        for variable, channel in written(port.layer, port.kind):
            _set(variable, now[channel], DOOR if variable is offset else 0.0)


class HeldMasks:
    """Keeps masked channels at exactly zero while an optimiser works on them.

    The masks are constraints on the variables, so they act inside the compiled training step, after every update,
    whatever the optimiser adds (momentum, weight decay). Make this before the step is compiled; masks can then change
    without compiling again. Nothing of it is saved with the model.

    Args:
        optimizer: needed if it averages weights (`use_ema`), so that the averages are held too. It must be built.

    Attributes:
        variables: the masks themselves. JAX takes for constants what a step is not given: see `reading`.

    """

    def __init__(self, model: keras.Model, mode: Mode, optimizer: keras.optimizers.Optimizer | None = None) -> None:
        self.model = model
        self.mode = mode
        self._constraints: dict[int, list[tuple[_Keep, IntArray]]] = {}
        averages = _averages(optimizer)
        for port in ChannelGraph(model).ports.values():
            if port.kind in WEIGHTED:
                for variable, channel in written(port.layer, port.kind):
                    keep = _Keep(channel.shape, averages.get(id(variable)))
                    variable.constraint = keep
                    self._constraints.setdefault(id(port.layer), []).append((keep, channel))
        self._keeps = [keep for pairs in self._constraints.values() for keep, _ in pairs]
        self.variables = [keep.kept for keep in self._keeps]

    def hold(self, masks: Masks) -> None:
        """Zeroes the masked channels now and after every update."""
        if masks.mode != self.mode:
            raise ModelError(f"masks of mode {masks.mode!r} cannot be held in mode {self.mode!r}")
        apply_masks(self.model, masks)
        for port, off in _off(self.model, masks):
            for keep, channel in self._constraints[id(port.layer)]:
                keep.kept.assign(~off[channel])
                keep.hold_average()

    def release(self) -> None:
        """Lets all channels move again."""
        for kept in self.variables:
            kept.assign(np.ones(kept.shape, bool))

    @contextmanager
    def reading(self, values: Sequence[Any]) -> Iterator[None]:
        """Inside, the masks are these tensors and not the variables' own: those that a step is traced with."""
        try:
            for keep, value in zip(self._keeps, values, strict=True):
                keep.given = value
            yield
        finally:
            for keep in self._keeps:
                keep.given = None


class _Keep(keras.constraints.Constraint):
    """Zero where `kept` is False; its shape broadcasts against the variable's."""

    def __init__(self, shape: tuple[int, ...], average: keras.Variable | None = None) -> None:
        self.kept = keras.Variable(np.ones(shape, bool), trainable=False, dtype="bool", name="kept")
        self.average = average
        self.given: Any = None  # in the place of `kept`

    def __call__(self, w: Any) -> Any:
        self.hold_average()  # the optimiser has just averaged what had not come through here yet
        return self._masked(w)

    def hold_average(self) -> None:
        if self.average is not None:
            self.average.assign(self._masked(self.average))

    def _masked(self, variable: Any) -> Any:
        value = ops.convert_to_tensor(variable)  # JAX makes no zeros like a variable
        kept = self.kept if self.given is None else self.given
        return ops.where(ops.convert_to_tensor(kept), value, ops.zeros_like(value))


def _averages(optimizer: keras.optimizers.Optimizer | None) -> dict[int, keras.Variable]:
    """The moving averages that an optimiser keeps, by the id of the variable."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # inside the scaling of the loss for float16
    if optimizer is None or not optimizer.use_ema:
        return {}
    if not optimizer.built:
        raise ModelError("the optimiser that averages weights must be built before masks can be held")
    pairs = zip(optimizer._trainable_variables, optimizer._model_variables_moving_average, strict=True)
    return {id(variable): average for variable, average in pairs if average is not None}


def resolve(graph: ChannelGraph, masks: Masks) -> tuple[BoolArray, Silence | None]:
    """Masks as booleans by slot (see `SetMap`), and what falls silent with them; None for masks by layer.

    Raises:
        ModelError: these are masks of another model.
        ConfigError: the model cannot work without these channels.

    """
    placed = SetMap(graph, masks.mode)
    sets = {found.item.name: found.item for found in placed.sets}
    if sets.keys() != masks.channels.keys():
        wrong = sorted(sets.keys() ^ masks.channels.keys())
        raise ModelError(f"these are masks of another model: {', '.join(wrong)} are not in both")
    for name, item in sets.items():
        indices = masks.channels[name]
        if indices and not 0 <= min(indices) <= max(indices) < item.size:
            raise ModelError(f"these are masks of another model: {name} has {item.size} channels, masked are {indices}")
    off = placed.off(masks.channels)
    return off, silence(graph, off) if masks.mode == "removable" else None


def _off(model: keras.Model, masks: Masks) -> list[tuple[Ports, BoolArray]]:
    """Each layer that makes or normalises channels, with True for those of its channels that are off."""
    graph = ChannelGraph(model, masks.protected)
    off, silenced = resolve(graph, masks)
    ports = [port for port in graph.ports.values() if port.kind in WEIGHTED]
    if silenced is not None:
        return [(port, silenced.off[id(port.layer)]) for port in ports]
    return [(port, off[port.outward]) for port in ports]


def _set(variable: keras.Variable, where: BoolArray, value: float) -> None:
    """Sets the variable's values where the array, which broadcasts against it, is True."""
    variable.assign(np.where(where, value, np.asarray(variable)))
