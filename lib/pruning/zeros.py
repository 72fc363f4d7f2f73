"""What of a model that already has zero filters can be removed exactly, and why the rest cannot."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from lib.arrays import FloatArray
from lib.errors import ConfigError
from lib.pruning.graph.channels import BoolArray, ChannelGraph, Ports, Step
from lib.pruning.graph.kinds import filters_of, has_factors, keeps_zero
from lib.pruning.graph.sets import SetMap
from lib.pruning.graph.silence import silence
from lib.pruning.masks import Masks

_VALUE_BY_VALUE = (
    keras.layers.BatchNormalization,
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
    keras.layers.ELU,
    keras.layers.Activation,
    keras.layers.Rescaling,
)
_MOVING = (
    keras.layers.Cropping2D,
    keras.layers.UpSampling2D,
    keras.layers.MaxPooling2D,
    keras.layers.AveragePooling2D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.Dropout,
    keras.layers.Identity,
    keras.layers.Reshape,
)
NEGLIGIBLE = 1e-7  # about the precision of float32: beside the layer's other channels such a weight is lost
REMOVABLE = "can be removed"
OTHER_WRITERS = "not zero in every layer that writes into the same channel"
CONSTANT = "zero in every writer, but a bias or beta makes a constant of it that is read"
MUST_STAY = "in a set of channels that must stay"
LAST = "the last of a set that cannot be emptied"


@dataclass(frozen=True)
class ZeroFilter:
    """A filter whose weights are all zero, and what becomes of it."""

    layer: str
    channel: int
    outcome: str


@dataclass(frozen=True)
class RemovablePart:
    """What of a model can be removed without any change to its outputs.

    Attributes:
        masks: the channels that are zero wherever they are read, of mode "removable", for `shrink`.
        zero_filters: every filter that is all zero, in the model's order.

    """

    masks: Masks
    zero_filters: list[ZeroFilter]

    def counts(self) -> dict[str, int]:
        """Outcome -> how many zero filters have it."""
        found = Counter(item.outcome for item in self.zero_filters)
        return {outcome: found[outcome] for outcome in (REMOVABLE, OTHER_WRITERS, CONSTANT, MUST_STAY, LAST)}


def removable_part(model: keras.Model, protected: tuple[str, ...] = ()) -> RemovablePart:
    """Finds the channels that are zero wherever a layer reads them, for every input.

    A zero filter alone makes no zero channel: bias, batch normalisation and the other operands of an addition decide.
    Constants are followed through the graph, so that a constant that a ReLU cuts off at zero counts as zero.

    Args:
        model: functional model of supported layers, masked layer by layer or imported with zeros in it.
        protected: as for `channel_sets`.

    Raises:
        ModelError: a layer's channels cannot be followed.

    """
    graph = ChannelGraph(model, protected)
    placed = SetMap(graph, "removable")
    read = _read_as_more_than_zero(graph, _constants(graph))
    off = {found.item.name: tuple(np.flatnonzero(~read[found.slots]).tolist()) for found in placed.sets}
    last = _keep_what_is_needed(placed, off)
    gone = placed.off(off)

    zero_writers = np.ones(graph.classes, bool)
    empty = [(port, _zero_filters(port)) for port in placed.makers()]
    for port, zero in empty:
        zero_writers[graph.class_of[port.outward[~zero]]] = False
    rows = []
    for port, zero in empty:
        for channel in np.flatnonzero(zero).tolist():
            label = int(graph.class_of[port.outward[channel]])
            if gone[label]:
                outcome = REMOVABLE
            elif label in graph.reasons:
                outcome = MUST_STAY
            elif not zero_writers[label]:
                outcome = OTHER_WRITERS
            else:
                outcome = LAST if label in last else CONSTANT
            rows.append(ZeroFilter(port.layer.name, channel, outcome))
    return RemovablePart(Masks("removable", off, protected), rows)


def silent_channels(placed: SetMap, negligible: float = NEGLIGIBLE) -> BoolArray:
    """By slot of mode "removable", True for channels that no layer reads as anything but zero, by the weights alone.

    Training with weight decay leaves such channels behind: their weights shrink towards zero and never quite get there.

    Args:
        placed: the sets of a model.
        negligible: weights of at most this share of a layer's largest count as zero.

    """
    return ~_read_as_more_than_zero(placed.graph, _constants(placed.graph, negligible))


def _zero_filters(port: Ports) -> BoolArray:
    filters = filters_of(port.layer)
    return np.asarray(~filters.any(axis=tuple(range(filters.ndim - 1))))


def _keep_what_is_needed(placed: SetMap, off: dict[str, tuple[int, ...]]) -> set[int]:
    """Takes one channel back into each emptied set that the model cannot do without; returns those classes."""
    back = set()
    for found in placed.sets:
        name = found.item.name
        if len(off[name]) == found.item.size:
            try:
                silence(placed.graph, placed.off(off))
            except ConfigError:
                back.add(int(found.slots[off[name][0]]))
                off[name] = off[name][1:]
    return back


def _constants(graph: ChannelGraph, negligible: float = 0.0) -> dict[int, FloatArray]:
    """For each tensor [channels]: the value that a channel has at every position of every input, NaN if it varies."""
    values = {number: np.full(len(graph.channels[number]), np.nan) for number in graph.calls.inputs}
    for step in graph.steps:
        ins = [values[number] for number in step.call.inputs]
        if step.kind == "opaque":
            values.update({number: np.full(len(graph.channels[number]), np.nan) for number in step.call.outputs})
        else:
            values[step.call.outputs[0]] = _constant_behind(
                step, ins, len(graph.channels[step.call.outputs[0]]), negligible
            )
    return values


def _constant_behind(step: Step, ins: list[FloatArray], channels: int, negligible: float) -> FloatArray:
    layer, first = step.layer, ins[0]
    match step.kind:
        case "make" | "depthwise":
            return _constant_of_maker(step, first == 0, negligible)
        case "norm" if layer.scale:
            offset = _cut(layer.beta, negligible) if layer.center else 0.0
            return np.where(_cut(layer.gamma, negligible) == 0, offset, _called_on(layer, ins))
        case "join":
            return np.concatenate(ins)
        case "flatten":
            return np.tile(first, channels // len(first))
        case "product":
            return np.where(np.any([operand == 0 for operand in ins], axis=0), 0.0, np.prod(ins, axis=0))
        case "sum" if isinstance(layer, keras.layers.Concatenate):  # along another axis
            return np.where(np.all([operand == first for operand in ins], axis=0), first, np.nan)
        case "sum" if has_factors(layer):
            return np.sum([factor * x for factor, x in zip(layer.operand_weights(), ins, strict=True)], axis=0)
        case "sum" if isinstance(layer, keras.Layer) and not hasattr(layer, "channel_kind"):
            return _called_on(layer, ins)
        case "norm" | "pass" if isinstance(layer, _VALUE_BY_VALUE):
            return _called_on(layer, ins)
        case "pass" if isinstance(layer, _MOVING):
            return first
    if step.kind == "sum":
        return np.where(np.all([operand == 0 for operand in ins], axis=0), 0.0, np.nan)
    # A constant that is padded has a border of zeros; of anything else, only what becomes of a zero is known.
    return np.where(first == 0, 0.0, np.nan) if keeps_zero(layer) else np.full(channels, np.nan)


def _cut(weights: Any, negligible: float) -> FloatArray:
    """The weights, those of at most this share of the largest as zeros."""
    values = np.asarray(weights)
    return np.where(np.abs(values) > negligible * np.abs(values).max(initial=0), values, 0)


def _constant_of_maker(step: Step, zero: BoolArray, negligible: float) -> FloatArray:
    """A maker's channel is the activation of its bias if its filter is zero wherever its input is not."""
    layer = step.layer
    filters = _cut(filters_of(layer), negligible) != 0
    if step.kind == "depthwise":
        silent = ~filters.any(axis=(0, 1, 2)) | np.repeat(zero, filters.shape[-1] // len(zero))
    elif isinstance(layer, keras.layers.SeparableConv2D):
        silent = ~filters.any(axis=(0, 1, 2)) | zero.all()
    else:
        groups = getattr(layer, "groups", 1)
        read = ~zero.reshape(groups, -1)  # [groups, channels in of each]
        group_of = np.repeat(np.arange(groups), filters.shape[-1] // groups)
        by_input = filters.any(axis=tuple(range(filters.ndim - 2)))  # [channels in of a group, filters]
        silent = ~(by_input & read[group_of].T).any(axis=0)
    bias = _cut(layer.bias, negligible).astype(np.float32) if layer.use_bias else np.zeros(len(silent), np.float32)
    activated = np.asarray(layer.activation(keras.ops.convert_to_tensor(bias[None])), np.float64)[0]
    return np.where(silent, activated, np.nan)


def _called_on(layer: Any, ins: list[FloatArray]) -> FloatArray:
    """What a layer makes of constants, by its own arithmetic, on maps of one position."""
    varies = np.any([np.isnan(operand) for operand in ins], axis=0)
    if varies.all():
        return np.full(len(varies), np.nan)
    maps: list[Any] = [np.nan_to_num(operand)[None, None, None].astype(np.float32) for operand in ins]
    made = np.asarray(layer(maps if len(maps) > 1 else maps[0], training=False), np.float64)
    return np.where(varies, np.nan, made.reshape(-1))


def _read_as_more_than_zero(graph: ChannelGraph, constants: dict[int, FloatArray]) -> BoolArray:
    """By class, whether any layer that mixes channels, or an output, reads it as anything but zero."""
    read = np.zeros(graph.classes, bool)
    numbers = list(graph.calls.outputs)
    for step in graph.steps:
        if step.kind in ("make", "opaque"):
            numbers += step.call.inputs
    for number in numbers:
        read[graph.class_of[graph.channels[number][constants[number] != 0]]] = True
    return read
