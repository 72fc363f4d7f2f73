"""What a model costs: parameters, zeros among them, multiply-accumulates."""

from dataclasses import dataclass
from math import prod
from typing import Any

import keras
import numpy as np

from lib.pruning.graph.calls import Calls, Shape

# What layers keep beside what they learn: batch and input normalisation, dropout.
_KEPT = ("moving_mean", "moving_variance", "mean", "variance", "count", "seed_generator_state")


@dataclass(frozen=True)
class LayerCost:
    """Cost of one layer: learned parameters and multiply-accumulates at a given input size."""

    name: str
    parameters: int
    macs: int


def count_parameters(model: keras.Model) -> int:
    """What was or can be learned, frozen or not; moving statistics do not count."""
    return sum(prod(weight.shape) for weight in _learned(model.weights))


def zero_share(model: keras.Model) -> float:
    """Share of the parameters, 0..1, that are exactly zero."""
    zeros = sum(int((np.asarray(weight) == 0).sum()) for weight in _learned(model.weights))
    return zeros / count_parameters(model)


def layer_costs(model: keras.Model, height_px: int, width_px: int) -> list[LayerCost]:
    """Cost of every layer with parameters, in the model's order; layers of nested models are on their own.

    Multiply-accumulates are those of convolutions and dense layers, biases and everything else left out, for one image
    of `height_px` x `width_px`; a layer that is called twice counts twice.
    """
    graph = Calls(model)
    shapes = graph.shapes_at(height_px, width_px)
    positions: dict[int, int] = {}  # id of a layer -> output positions over all its calls
    layers: dict[int, Any] = {}
    for call in graph.calls:
        layers[id(call.layer)] = call.layer
        positions[id(call.layer)] = positions.get(id(call.layer), 0) + positions_of(shapes[call.outputs[0]])
    return [
        LayerCost(
            layer.name,
            sum(prod(weight.shape) for weight in _learned(layer.weights)),
            positions[number] * sum(prod(kernel.shape) for kernel in kernels(layer)),
        )
        for number, layer in layers.items()
        if isinstance(layer, keras.Layer) and (_learned(layer.weights) or kernels(layer))
    ]


def count_macs(model: keras.Model, height_px: int, width_px: int) -> int:
    """Multiply-accumulates of one image, summed over `layer_costs`."""
    return sum(cost.macs for cost in layer_costs(model, height_px, width_px))


def positions_of(shape: Shape) -> int:
    """Output positions of one image: the product of [B, ..., channels] without its ends."""
    return prod(size or 0 for size in shape[1:-1])


def kernels(layer: Any) -> list[keras.Variable]:
    """The weights that a layer multiplies with at each of its output positions; a dense layer has one position."""
    if isinstance(layer, keras.layers.SeparableConv2D):
        return [layer.depthwise_kernel, layer.pointwise_kernel]
    if isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)):
        return [layer.kernel]
    return []


def is_learned(weight: keras.Variable) -> bool:
    """Whether a weight is a parameter. Not `trainable`: that is False for the weights of frozen layers too."""
    return weight.name not in _KEPT


def _learned(weights: list[keras.Variable]) -> list[keras.Variable]:
    return [weight for weight in weights if is_learned(weight)]
