"""Calls that move values and leave them as they are: where each channel goes, and the same call on fewer channels.

Where channels go is seen by sending their numbers through the call itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import keras
import numpy as np
from keras import layers

from lib.arrays import BoolArray, IntArray
from lib.pruning.graph.calls import Call, Shape

OPEN = 8  # positions of an axis whose length the model leaves open
LARGEST = 1 << 25  # values that are sent through a call


@dataclass(frozen=True)
class Moved:
    """One output of a move.

    Attributes:
        axis: of the output's channels.
        index: [rows, channels], numbers of the channels that went in, those of all inputs one after another. Where
            a reshape spreads channels over two axes, the other axis' are rows: they can only go together.

    """

    axis: int
    index: IntArray


def moved(call: Call, shapes: list[Shape], axes: Mapping[int, int], numbers: IntArray) -> list[Moved] | None:
    """Where a move takes its channels; None: nowhere that can be followed.

    Args:
        axes: by tensor number, the axis of its channels.
        numbers: for each channel that goes in, those of all inputs one after another, its identity: channels of one
            identity are one channel at several places.

    """
    sizes = {number: shapes[number][axes[number]] or 0 for number in call.inputs}
    if type(call.layer) is layers.Flatten and None not in shapes[call.outputs[0]][1:]:
        (number,) = call.inputs
        if axes[number] == len(shapes[number]) - 1:
            positions = prod(size or 0 for size in shapes[number][1:-1])
            return [Moved(1, np.tile(np.arange(sizes[number]), positions)[None])]
    if not _adaptable(call, shapes, axes):
        return None
    made = _sent(call, shapes, axes, sizes)
    if made is None:
        return None
    found = []
    for number, values in zip(call.outputs, made, strict=True):
        one = _read(call, values, shapes[number], numbers, shapes[call.inputs[0]], axes[call.inputs[0]])
        if one is None:
            return None
        found.append(one)
    return found


def _sent(
    call: Call, shapes: list[Shape], axes: Mapping[int, int], sizes: Mapping[int, int], changed: Any = None
) -> list[IntArray] | None:
    """The channels' numbers, from 0 on, behind the call, or behind the (layer, arguments) that stand for it."""
    tensors, first = {}, 0
    for number in dict.fromkeys(call.inputs):
        shape = [size or OPEN for size in shapes[number]]
        shape[0] = shapes[number][0] or 1
        shape[axes[number]] = sizes[number]
        if prod(shape) > LARGEST:
            return None
        labels = np.arange(first, first + sizes[number], dtype=np.float32)
        first += sizes[number]
        spread = labels.reshape([-1 if axis == axes[number] else 1 for axis in range(len(shape))])
        tensors[number] = keras.ops.convert_to_tensor(np.ascontiguousarray(np.broadcast_to(spread, shape)))
    try:
        layer = call.layer if changed is None else changed[0]
        args, kwargs = call.arguments(tensors, None if changed is None else changed[1])
        made = keras.tree.flatten(layer(*args, **kwargs))
    except Exception:  # with open axes of a length that the call was not made for
        return None
    return [np.rint(keras.ops.convert_to_numpy(values)).astype(np.int64) for values in made]


def _read(call: Call, values: IntArray, shape: Shape, numbers: IntArray, before: Shape, axis: int) -> Moved | None:
    if values.ndim != len(shape) or values.ndim < 2 or not values.size or (values != values[:1]).any():
        return None
    whole, values = values, values[0]
    ids = numbers[values]
    varying = [one for one in range(values.ndim) if (ids != ids.take([0], one)).any()]
    if type(call.layer).__name__ == "Stack":  # what is stacked goes together
        varying = [one for one in varying if one + 1 != call.layer.axis % whole.ndim] or varying
    if not varying:  # one channel
        if before[axis] != 1 or shape[-1] != 1:
            return None
        varying = [values.ndim - 1]
    along = varying[-1]
    values = np.moveaxis(values, along, -1)
    for one in range(values.ndim - 1):
        if (values == values.take([0], one)).all():
            values = values.take([0], one)
    if values.size > 1 << 22:
        return None
    return Moved(along + 1, np.unique(values.reshape(-1, values.shape[-1]), axis=0))


def _adaptable(call: Call, shapes: list[Shape], axes: Mapping[int, int]) -> bool:
    """Whether `narrowed` can put the call for fewer channels."""
    name, axis, rank = type(call.layer).__name__, axes[call.inputs[0]], len(shapes[call.inputs[0]])
    if name == "GetItem":
        return (
            _key(call.node.arguments.args[1:] or call.node.arguments.kwargs, axis, np.ones(1, bool), rank) is not None
        )
    if name == "Take":
        along = call.layer.axis is not None and call.layer.axis % rank == axis
        return along and len(call.inputs) == 1 and np.ndim(call.node.arguments.args[-1]) == 1
    return name != "Repeat" or isinstance(call.layer.repeats, int)


def narrowed(
    call: Call, shapes: list[Shape], axes: Mapping[int, int], kept: Mapping[int, BoolArray], index: tuple[IntArray, ...]
) -> tuple[dict[str, Any], Any]:
    """How a move is put for fewer channels: what changes in the layer's configuration, and in the call's arguments.

    Args:
        kept: by tensor number, of the inputs and outputs, which of its channels stay.
        index: of each output, see `Moved`.

    """
    name, number = type(call.layer).__name__, call.inputs[0]
    out, axis, rank = call.outputs[0], axes[number], len(shapes[number])
    if name in ("Reshape", "BroadcastTo"):
        offset, key = (1, "target_shape") if isinstance(call.layer, keras.Layer) else (0, "newshape")
        key = "shape" if name == "BroadcastTo" else key
        sizes = list(getattr(call.layer, key))
        if sizes[axes[out] - offset] != -1:
            sizes[axes[out] - offset] = int(kept[out].sum())
        return {key: tuple(sizes)}, None
    if name in ("Split", "ArraySplit") and call.layer.axis % rank == axis:
        ends = np.cumsum([int(kept[one].sum()) for one in call.outputs])[:-1]
        return {"indices_or_sections": tuple(ends.tolist())}, None
    if name == "GetItem":
        arguments = call.node.arguments
        slices = _key(arguments.args[1:] or arguments.kwargs, axis, kept[number], rank)
        return {}, ((arguments.args[0], slices), {})
    if name == "Take":
        places = (np.cumsum(kept[number]) - 1)[index[0][0]][kept[out]]
        return {}, ((call.node.arguments.args[0], places.astype(np.int32)), {})
    return {}, None


def _key(given: Any, axis: int, kept: BoolArray, rank: int) -> tuple[Any, ...] | None:
    """The key of `x[key]` with its slice of channels for those that are kept; None: it picks channels otherwise."""
    key = given.get("key") if isinstance(given, dict) else given[0] if given else None
    key = list(key) if isinstance(key, (tuple, list)) else [key]
    if any(not (part is None or part is Ellipsis or isinstance(part, (int, slice))) for part in key):
        return None
    if Ellipsis not in key:
        key.append(Ellipsis)
    at = key.index(Ellipsis)
    missing = rank - sum(part is not None for part in key) + 1
    key[at : at + 1] = [slice(None)] * missing
    place = [position for position, part in enumerate(key) if part is not None][axis]
    part = key[place]
    if not isinstance(part, slice):
        return None
    if part.step not in (None, 1):
        return tuple(key) if part == slice(None, None, -1) else None
    if part != slice(None):
        start, stop, _ = part.indices(len(kept))
        key[place] = slice(int(kept[:start].sum()), int(kept[: max(start, stop)].sum()))
    return tuple(key)


def same_move(
    call: Call,
    changed: Any,
    shapes: list[Shape],
    axes: Mapping[int, int],
    kept: Mapping[int, BoolArray],
    index: tuple[IntArray, ...],
) -> bool:
    """Whether the narrower call (layer, arguments) takes the kept channels where the whole one takes them."""
    inputs = list(dict.fromkeys(call.inputs))
    places = np.cumsum(np.concatenate([kept[number] for number in inputs])) - 1
    made = _sent(call, shapes, axes, {number: int(kept[number].sum()) for number in inputs}, changed)
    if made is None:
        return True  # too large, or of open axes: it was followed, so it could be sent
    for number, rows, values in zip(call.outputs, index, made, strict=True):
        if not kept[number].any():
            continue
        wanted = np.unique(places[rows[:, kept[number]]], axis=0)
        got = np.moveaxis(values[0], axes[number] - 1, -1)
        if not np.array_equal(np.unique(got.reshape(-1, got.shape[-1]), axis=0), wanted):
            return False
    return True
