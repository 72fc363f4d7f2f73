"""What is known of the channels of every tensor, by a model's weights or on images: a constant, or a value that varies.

Facts are arrays [..., channels] by tensor number: the value that a channel has everywhere, NaN where it varies.
"""

from collections.abc import Mapping
from typing import Any, Literal

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from lib.arrays import BoolArray, FloatArray, IntArray
from lib.pruning.graph.calls import Call
from lib.pruning.graph.flow import Flow, Step
from lib.pruning.graph.kinds import CLOSED, RECURRENT, SEPARABLE, STEADY, has_factors, own_kind
from lib.pruning.graph.sets import Mode, SetMap
from lib.pruning.graph.weights import filters_of, scale_and_offset

Facts = Mapping[int, FloatArray]
Rule = Literal["exact", "zero", "filter"]

_VALUE_BY_VALUE = (
    keras.layers.BatchNormalization,
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
    keras.layers.ELU,
    keras.layers.Activation,
    keras.layers.Rescaling,
)
_NAMES = ("Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "Identity", "Reshape")
_MOVING = frozenset((*(kind.__name__ for kind in STEADY), *_NAMES))  # operations are called so too


def facts_by_weights(flow: Flow, rule: Rule = "exact", negligible: float = 0.0) -> Facts:
    """What every channel is at every position of every input, [channels] for each tensor.

    Args:
        rule: "exact": constants are followed by the layers' own arithmetic, so that one that a ReLU cuts off is known
            as zero. "zero": of constants only zeros are followed, and what a normalisation adds is looked at in
            float64, however small. "filter": filters alone are looked at, as if no bias, normalisation or activation
            could make a channel other than zero.
        negligible: weights of at most this share of a layer's largest count as zero.

    """
    steps = iter(flow.steps)

    def behind(call: Call, given: dict[int, FloatArray]) -> list[FloatArray]:
        step = next(steps)
        if step.kind == "move":
            before = np.concatenate([given[number] for number in dict.fromkeys(call.inputs)])
            return [
                np.where((before[rows] == before[rows[:1]]).all(axis=0), before[rows[0]], np.nan) for rows in step.index
            ]
        ins, sizes = [given[number] for number in call.inputs], [flow.size(number) for number in call.outputs]
        rank = len(flow.calls.shapes[call.inputs[0]])
        ones = tuple(-1 if axis == flow.axes[call.inputs[0]] else 1 for axis in range(rank))
        found = [_behind(step, ins, channels, negligible, rule, ones) for channels in sizes]
        return found if rule == "exact" else [np.where(values == 0, 0.0, np.nan) for values in found]

    start = {number: np.full(flow.size(number), np.nan) for number in flow.calls.inputs}
    return dict(flow.calls.follow(start, behind))


def facts_on_images(flow: Flow, images: NDArray[Any], wanted: set[int]) -> Facts:
    """Runs the model; for each wanted tensor [images, channels]: 0 where a channel is zero all over an image, else NaN.

    Args:
        images: [B, ...], as the model takes them.

    """
    found = {}
    for number, value in flow.calls.follow({flow.calls.inputs[0]: ops.convert_to_tensor(images)}, _called):
        if number in wanted:
            others = tuple(axis for axis in range(1, value.ndim) if axis != flow.axes[number])
            alive = ops.any(ops.not_equal(value, 0), axis=others)
            found[number] = np.where(ops.convert_to_numpy(alive), np.nan, 0.0)
    return found


def looked_at(placed: SetMap) -> list[tuple[int, IntArray]]:
    """The tensors that a layer looks at rather than handing them on, each with the slots of its channels."""
    return [
        (number, placed.slot_of[placed.graph.channels[number]])
        for step in placed.graph.steps
        if _looks(step, placed.mode)
        for number in step.call.inputs
    ]


def silent_slots(placed: SetMap, facts: Facts) -> BoolArray:
    """By slot, True for what is looked at, and is zero wherever it is looked at."""
    looked, seen = np.zeros(placed.slots, bool), np.zeros(placed.slots, bool)
    for number, slots in looked_at(placed):
        looked[slots] = True
        seen[slots[(facts[number] != 0).reshape(-1, len(slots)).any(axis=0)]] = True
    return looked & ~seen


def _looks(step: Step, mode: Mode) -> bool:
    if step.kind in ("make", *CLOSED):
        return True
    if mode == "removable":  # what a sum, a product or an activation makes of a set's channels is the set's still
        return False
    return step.kind in ("depthwise", "sum", "product") or (step.kind == "pass" and not step.keeps)


def _called(call: Call, given: dict[int, Any]) -> list[Any]:
    args, kwargs = call.arguments(given)
    return list(keras.tree.flatten(call.layer(*args, **kwargs)))


def _behind(
    step: Step, ins: list[FloatArray], channels: int, negligible: float, rule: Rule, ones: tuple[int, ...]
) -> FloatArray:
    """What is known behind a call; `ones` is the shape of a map of one position."""
    layer, first = step.layer, ins[step.main]
    match step.kind:
        case "make" if step.mixes and rule != "filter":
            return np.full(channels, np.nan)
        case "opaque" | "heads":
            return np.full(channels, np.nan)
        case "make" | "depthwise" if rule == "filter":
            silent = ~filters_of(layer).reshape(-1, channels).any(axis=0)
            if step.kind == "depthwise":
                silent |= np.repeat(first == 0, channels // len(first))
            return np.where(silent, 0.0, np.nan)
        case "norm" | "pass" | "l2norm" if rule == "filter":
            return first
        case "norm" if isinstance(layer, keras.layers.GroupNormalization):
            return _behind_groups(layer, first == 0)
        case "norm" if rule == "zero":
            scale, offset = scale_and_offset(layer)
            return np.where(((first == 0) | (scale == 0)) & (offset == 0), 0.0, np.nan)
        case "make" | "depthwise":
            return _behind_maker(step, first == 0, negligible)
        case "norm" if layer.scale:
            beta = _cut(layer.beta, negligible) if layer.center else 0.0
            return np.where(_cut(layer.gamma, negligible) == 0, beta, _called_on(layer, [first], ones))
        case "join":
            return np.concatenate(ins)
        case "product":
            return np.where(np.any([operand == 0 for operand in ins], axis=0), 0.0, np.prod(ins, axis=0))
        case "sum" if type(layer).__name__ == "Concatenate":  # along another axis
            return np.where(np.all([operand == first for operand in ins], axis=0), first, np.nan)
        case "sum" if has_factors(layer):
            return np.sum([factor * x for factor, x in zip(layer.operand_weights(), ins, strict=True)], axis=0)
        case "sum" if isinstance(layer, keras.Layer) and own_kind(layer) is None:
            return _called_on(layer, ins, ones)
        case "norm" | "pass" if isinstance(layer, _VALUE_BY_VALUE):
            return _called_on(layer, [first], ones)
        case "pass" if type(layer).__name__ in _MOVING:
            return first
    if step.kind == "sum":
        return np.where(np.all([operand == 0 for operand in ins], axis=0), 0.0, np.nan)
    # A constant that is padded has a border of zeros; of anything else, only what becomes of a zero is known.
    return np.where(first == 0, 0.0, np.nan) if step.keeps else np.full(channels, np.nan)


def _cut(weights: Any, negligible: float) -> FloatArray:
    """The weights, those of at most this share of the largest as zeros."""
    values = np.asarray(weights)
    return np.where(np.abs(values) > negligible * np.abs(values).max(initial=0), values, 0)


def _behind_groups(norm: Any, zero: BoolArray) -> FloatArray:
    """Behind a group normalisation a channel is its beta where gamma is zero, or the whole group is."""
    groups = len(zero) if norm.groups == -1 else norm.groups
    known = np.repeat(zero.reshape(groups, -1).all(axis=1), len(zero) // groups)
    if norm.scale:
        known = known | (np.asarray(norm.gamma) == 0)
    return np.where(known, np.asarray(norm.beta, np.float64) if norm.center else 0.0, np.nan)


def _behind_maker(step: Step, zero: BoolArray, negligible: float) -> FloatArray:
    """A maker's channel is the activation of its bias if its filter is zero wherever its input is not."""
    layer = step.layer
    filters = np.abs(filters_of(layer, None))
    filters = filters > negligible * filters.max(initial=0)
    unused = ~filters.any(axis=tuple(range(filters.ndim - 1)))
    if isinstance(layer, keras.layers.Embedding):
        return np.where(unused, 0.0, np.nan)
    if isinstance(layer, RECURRENT):
        bias = np.asarray(layer.cell.bias) if layer.use_bias else np.zeros(layer.units)
        return np.where(unused & ~bias.reshape(-1, layer.units).any(axis=0), 0.0, np.nan)
    if step.kind == "depthwise":
        silent = unused | np.repeat(zero, filters.shape[-1] // len(zero))
    elif isinstance(layer, SEPARABLE):
        silent = unused | zero.all()
    else:
        groups = getattr(layer, "groups", 1)
        read = ~zero.reshape(groups, -1)  # [groups, channels in of each]
        group_of = np.repeat(np.arange(groups), filters.shape[-1] // groups)
        by_input = filters.any(axis=tuple(range(filters.ndim - 2)))  # [channels in of a group, filters]
        silent = ~(by_input & read[group_of].T).any(axis=0)
    bias = _cut(layer.bias, negligible).astype(np.float32) if layer.use_bias else np.zeros(len(silent), np.float32)
    activated = layer.activation(ops.convert_to_tensor(bias[None]))
    return np.where(silent, np.asarray(ops.convert_to_numpy(activated), np.float64)[0], np.nan)


def _called_on(layer: Any, ins: list[FloatArray], ones: tuple[int, ...]) -> FloatArray:
    """What a layer makes of constants, by its own arithmetic, on maps of one position."""
    varies = np.any([np.isnan(operand) for operand in ins], axis=0)
    if varies.all():
        return np.full(len(varies), np.nan)
    maps: list[Any] = [np.nan_to_num(operand).reshape(ones).astype(np.float32) for operand in ins]
    made = ops.convert_to_numpy(layer(maps if len(maps) > 1 else maps[0], training=False)).astype(np.float64)
    return np.where(varies, np.nan, made.reshape(-1))
