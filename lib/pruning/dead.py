"""Channels that stay at zero on images: what a training for sparsity has switched off can be taken out."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from lib.errors import DataError, ModelError
from lib.pruning.graph.calls import Calls
from lib.pruning.graph.channels import BoolArray, ChannelGraph, Step
from lib.pruning.graph.kinds import keeps_zero
from lib.pruning.graph.sets import Mode, SetMap
from lib.pruning.masks import Masks


def dead_channels(
    model: keras.Model,
    images: Iterable[NDArray[Any]],
    mode: Mode = "removable",
    protected: tuple[str, ...] = (),
    min_channels: int = 1,
) -> Masks:
    """The channels that are exactly zero wherever a layer looks at them, at every place of every image.

    Masking them changes nothing on these images. A channel of a tied set must be zero at each of its readers, behind
    additions and activations: what two members add may be silent only together. Of channels that reach no reader, and
    of heads, none is dead.

    Args:
        model: a functional model, as for `channel_sets`.
        images: [H, W, 3] or [B, H, W, 3] each, as the model takes them; at least one.
        mode, protected: as for `channel_sets`.
        min_channels: at least so many channels of each set stay, the first ones, even if all are dead.

    Raises:
        DataError: there is no image.

    """
    graph = ChannelGraph(model, protected)
    placed = SetMap(graph, mode)
    read = [
        (number, placed.slot_of[graph.channels[number]])
        for step in graph.steps
        if _looks(step, mode)
        for number in step.call.inputs
    ]
    alive = np.ones(placed.slots, bool)
    for _, slots in read:
        alive[slots] = False
    if mode == "per_layer":
        for port in placed.makers():
            alive[port.outward] |= not keeps_zero(port.layer)
    count = 0
    for count, image in enumerate(images, 1):  # noqa: B007
        batch = np.asarray(image, np.float32)
        seen = _not_zero(graph.calls, batch if batch.ndim == 4 else batch[None], {number for number, _ in read})
        for number, slots in read:
            np.logical_or.at(alive, slots, seen[number])
    if not count:
        raise DataError("dead channels cannot be found without an image to look at")
    channels = {}
    for found in placed.sets:
        dead = np.flatnonzero(~alive[found.slots]).tolist()
        spared = max(0, min_channels - (found.item.size - len(dead)))
        channels[found.item.name] = tuple(dead[spared:])
    return Masks(mode, channels, protected)


def combine(a: Masks, b: Masks) -> Masks:
    """The channels that are off in one of both.

    Raises:
        ModelError: these are masks of different models or modes.

    """
    if (a.mode, a.protected, a.channels.keys()) != (b.mode, b.protected, b.channels.keys()):
        raise ModelError("masks of different models, modes or protected layers cannot be combined")
    channels = {name: tuple(sorted({*off, *b.channels[name]})) for name, off in a.channels.items()}
    return Masks(a.mode, channels, a.protected)


def _looks(step: Step, mode: Mode) -> bool:
    """Whether a call looks at channels rather than handing them on, a zero as a zero."""
    if step.kind in ("make", "opaque"):
        return True
    if mode == "removable":  # what a sum, a product or an activation makes of a set's channels is the set's still
        return False
    return step.kind in ("depthwise", "sum", "product") or (step.kind == "pass" and not keeps_zero(step.layer))


def _not_zero(calls: Calls, images: NDArray[np.float32], wanted: set[int]) -> dict[int, BoolArray]:
    """Runs the model; for each wanted tensor number, which channels of its last axis are anywhere other than zero."""
    last_use = {number: position for position, call in enumerate(calls.calls) for number in call.inputs}
    tensors: dict[int, Any] = {calls.inputs[0]: ops.convert_to_tensor(images)}
    found: dict[int, BoolArray] = {}
    for position, call in enumerate(calls.calls):
        given = {id(tensor): tensors[n] for tensor, n in zip(call.node.input_tensors, call.inputs, strict=True)}
        args, kwargs = call.node.arguments.fill_in(given)
        made = keras.tree.flatten(call.layer(*args, **kwargs))
        for number in wanted.intersection(call.inputs) - found.keys():
            value = tensors[number]
            found[number] = np.asarray(ops.any(ops.not_equal(value, 0), axis=tuple(range(value.ndim - 1))))
        for number in call.inputs:
            if last_use[number] == position:  # or a large network's maps would all be kept
                tensors.pop(number, None)
        tensors.update(zip(call.outputs, made, strict=True))
    return found
