"""Criteria that look at images: how strong a channel is where it is read, and how much the loss would miss it."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from lib.arrays import FloatArray
from lib.errors import ConfigError
from lib.pruning.gradients import Loss, gradients
from lib.pruning.graph.calls import Call
from lib.pruning.graph.sets import SetMap
from lib.pruning.graph.weights import written

ACTIVATION = "activation"
BY_GRADIENTS = ("taylor", "fisher")
MEASURED = (ACTIVATION, *BY_GRADIENTS)


def mean_activation(placed: SetMap, batches: Iterable[Any]) -> dict[str, FloatArray]:
    """The mean absolute value of each channel over images and positions, by set name [channels].

    Where it is read: of every tensor that a layer with weights reads, other than a batch normalisation, divided by that
    tensor's mean over the channels, and averaged over such layers.

    Args:
        batches: inputs, or (inputs, targets), of which the targets are left alone.

    """
    graph = placed.graph
    reading = {id(port.layer) for port in placed.readers()}
    read = {step.source for step in graph.steps if id(step.layer) in reading}
    total: dict[int, FloatArray] = {number: np.zeros(len(graph.channels[number])) for number in read}
    count = 0

    def behind(call: Call, carried: dict[int, Any]) -> list[Any]:
        args, kwargs = call.arguments(carried)
        return list(keras.tree.flatten(call.layer(*args, **kwargs)))

    for batch in batches:
        inputs = keras.tree.flatten(batch[0] if isinstance(batch, tuple) else batch)
        start = dict(zip(graph.calls.inputs, map(ops.convert_to_tensor, inputs), strict=True))
        for number, value in graph.calls.follow(start, behind):
            if number in read:
                strength = np.abs(ops.convert_to_numpy(value).astype(np.float64))
                total[number] += strength.reshape(-1, strength.shape[-1]).mean(axis=0)
        count += 1
    _require(count, ACTIVATION)
    by_slot, met = np.zeros(placed.slots), np.zeros(placed.slots)
    for number, strength in total.items():
        slots = placed.slot_of[graph.channels[number]]
        np.add.at(by_slot, slots, strength / (strength.mean() or 1.0))
        np.add.at(met, slots, 1)
    mean = by_slot / np.maximum(met, 1)
    return {found.item.name: mean[found.slots] for found in placed.sets}


def missed_by_loss(
    placed: SetMap, model: keras.Model, batches: Iterable[Any], loss: Loss, how: str
) -> dict[int, FloatArray]:
    """What the loss says of each filter, by the id of its layer [filters].

    With g the gradient by a gate of 1 that scales a filter and its bias, the sum of weight times gradient over them:
    "taylor" is the mean over batches of |g| (Molchanov et al., arXiv 1906.10771, section 3), "fisher" half the mean of
    its square (Theis et al., arXiv 1801.05787, equation 8). As published a batch is one image.

    Args:
        batches: (inputs, targets).
        loss: (targets, outputs) -> the loss.

    """
    total: dict[int, FloatArray] = {}
    count = 0
    places = {id(weight): number for number, weight in enumerate(model.weights)}
    for batch in batches:
        if not (isinstance(batch, tuple) and len(batch) == 2):
            raise ConfigError(f"the criterion {how!r} needs batches of (inputs, targets), got {type(batch).__name__}")
        found = gradients(model, *batch, loss)
        for port in placed.makers():
            gate = np.zeros(len(port.outward))
            for variable, channel in written(port.layer, port.kind):
                by_weight = found[places[id(variable)]]
                if by_weight is not None:
                    product = by_weight * ops.convert_to_numpy(variable)
                    gate += np.bincount(
                        np.broadcast_to(channel, product.shape).ravel(), product.ravel(), minlength=len(gate)
                    )
            said = np.abs(gate) if how == "taylor" else gate**2 / 2
            total[id(port.layer)] = total.get(id(port.layer), np.zeros(len(gate))) + said
        count += 1
    _require(count, how)
    return {layer: said / count for layer, said in total.items()}


def check_given(criterion: Any, batches: Any, loss: Any) -> None:
    """Raises ConfigError where a criterion lacks its images or its loss, or is given some that it does not look at."""
    measured = isinstance(criterion, str) and criterion in MEASURED
    if measured and batches is None:
        raise ConfigError(
            f"the criterion {criterion!r} looks at images: give plan the scores that "
            f"scores(model, {criterion!r}, batches=...{', loss=...' if criterion in BY_GRADIENTS else ''}) gives"
        )
    if batches is not None and not measured:
        raise ConfigError(f"only {', '.join(MEASURED)} look at images, not {criterion!r}; leave batches out")
    if (loss is not None) != (measured and criterion in BY_GRADIENTS):
        raise ConfigError("loss=, (targets, outputs) -> a scalar, goes with the criteria 'taylor' and 'fisher'")


def _require(count: int, criterion: str) -> None:
    if not count:
        raise ConfigError(f"the criterion {criterion!r} was given no batches")
