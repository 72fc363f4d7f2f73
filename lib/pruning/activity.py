"""Which channels of a model are active, by its weights or on images, and the multiply-accumulates that they need.

A layer's channels are looked at where it hands them on: behind the batch normalisation and the activation that follow
it directly. Its multiply-accumulates are then H * W * kh * kw * active in * active out.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from lib.arrays import BoolArray
from lib.pruning.cost import LayerCost, kernels
from lib.pruning.facts import Facts, facts_by_weights, facts_on_images
from lib.pruning.graph.calls import Call, Calls
from lib.pruning.graph.flow import Flow
from lib.pruning.graph.kinds import DEPTHWISE, RECURRENT, SEPARABLE, by_channel

Rule = Literal["filter", "silent"]

_FOLLOWING = (layers.BatchNormalization, layers.ReLU, layers.Activation)


@dataclass(frozen=True)
class LayerActivity:
    """How much of one layer is active, averaged over images where there are several.

    Attributes:
        channels: all its channels.
        active: those that are active.
        macs: multiply-accumulates that the active channels need, of the layer's input and its own.

    """

    name: str
    channels: int
    active: float
    macs: float


def active_by_weights(model: keras.Model, costs: list[LayerCost], rule: Rule = "filter") -> list[LayerActivity]:
    """Activity of every layer whose multiply-accumulates are counted, read off the weights.

    Behind layers whose channels cannot be followed all count as active.

    Args:
        model: a functional model, nested ones included.
        costs: its `lib.pruning.cost.layer_costs`, at the input size that counts.
        rule: "filter": a channel is inactive if its filter is all zero, as B-FPGM (arXiv 2501.16917) counts; behind a
            batch normalisation it may still be a constant. "silent": it is inactive if it is zero at every input
            before the activation; one that a ReLU cuts off at every input still counts as active.

    """
    calls = Calls(model)
    return _activities(calls, costs, facts_by_weights(Flow(calls), "zero" if rule == "silent" else rule))


def active_on_images(
    model: keras.Model,
    costs: list[LayerCost],
    images_rgb: Iterable[NDArray[np.uint8]],
) -> list[LayerActivity]:
    """Activity of every layer whose multiply-accumulates are counted: the mean over images, each run at its own size.

    A channel is active on an image if it is anywhere other than zero, which behind a ReLU means that its maximum over
    height and width is above zero (the count of the pruned DSFD).

    Args:
        costs: the model's `lib.pruning.cost.layer_costs`, at the input size that counts.
        images_rgb: [H, W, 3] each, at least one.

    Raises:
        ValueError: there is no image.

    """
    probe = ActivityProbe(model, costs)
    found = [probe(image[None]) for image in images_rgb]
    if not found:
        raise ValueError("activity cannot be measured without an image")
    return _mean(found)


class ActivityProbe:
    """Measures activity as `active_on_images` does, on a model that may be in training.

    Args:
        model: a functional model.
        costs: its `lib.pruning.cost.layer_costs`, at the input size that counts.

    """

    def __init__(self, model: keras.Model, costs: list[LayerCost]) -> None:
        self._calls, self._costs = Calls(model), costs
        self._flow = Flow(self._calls)
        self._wanted = {n for call in _counted(self._calls) for n in (call.inputs[0], _endpoint(self._calls, call))}

    def __call__(self, images_rgb: NDArray[Any]) -> list[LayerActivity]:
        """Activity of every counted layer, the mean over images [B, H, W, 3], 0..255."""
        facts = facts_on_images(self._flow, np.asarray(images_rgb, np.float32), self._wanted)
        each = [{number: values[index] for number, values in facts.items()} for index in range(len(images_rgb))]
        return _mean([_activities(self._calls, self._costs, one) for one in each])


def _counted(calls: Calls) -> list[Call]:
    return [call for call in calls.calls if kernels(call.layer)]


def _endpoint(calls: Calls, call: Call) -> int:
    """The tensor that the next counted layers see of this one."""
    number = call.outputs[0]
    while len(readers := calls.readers[number]) == 1 and isinstance(calls.calls[readers[0]].layer, _FOLLOWING):
        number = calls.calls[readers[0]].outputs[0]
    return number


def _activities(calls: Calls, costs: list[LayerCost], facts: Facts) -> list[LayerActivity]:
    """The counted layers' activity by what is known of tensors; of several uses the most active one."""
    macs = {cost.name: cost.macs for cost in costs}
    result: dict[str, LayerActivity] = {}
    for call in _counted(calls):
        entering, leaving = facts[call.inputs[0]] != 0, facts[_endpoint(calls, call)] != 0
        name = calls.names[id(call.layer)]
        one = LayerActivity(
            name, len(leaving), float(leaving.sum()), float(_share(call.layer, entering, leaving) * macs[name])
        )
        if name not in result or one.macs > result[name].macs:
            result[name] = one
    return [result[cost.name] for cost in costs if cost.name in result]


def _share(layer: Any, entering: BoolArray, leaving: BoolArray) -> float:
    """The part of a layer's multiply-accumulates that its active channels need."""
    if isinstance(layer, DEPTHWISE) or by_channel(layer):
        return float(leaving.mean())
    if isinstance(layer, RECURRENT):
        reading, repeating = (kernel.shape[0] for kernel in kernels(layer))
        active = reading * entering.mean() + repeating * leaving.mean()
        return float(leaving.mean() * active / (reading + repeating))
    if isinstance(layer, SEPARABLE):
        depthwise, pointwise = (prod(kernel.shape) for kernel in kernels(layer))
        part = depthwise + pointwise * leaving.mean()
        return float(entering.mean() * part / (depthwise + pointwise))
    return float(leaving.mean() * entering.mean())


def _mean(found: Sequence[list[LayerActivity]]) -> list[LayerActivity]:
    """The mean over images of the layers' activities."""
    return [
        LayerActivity(
            items[0].name,
            items[0].channels,
            sum(item.active for item in items) / len(items),
            sum(item.macs for item in items) / len(items),
        )
        for items in zip(*found, strict=True)
    ]
