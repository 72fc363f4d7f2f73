"""What a model costs: parameters, zeros among them, multiply-accumulates."""

from dataclasses import dataclass
from math import prod

import keras
import numpy as np


@dataclass(frozen=True)
class LayerCost:
    """Cost of one layer: trainable parameters and multiply-accumulates at a given input size."""

    name: str
    parameters: int
    macs: int


def count_parameters(model: keras.Model) -> int:
    """Trainable parameters; moving statistics do not count."""
    return sum(prod(weight.shape) for weight in _learned(model))


def zero_share(model: keras.Model) -> float:
    """Share of the parameters, 0..1, that are exactly zero."""
    zeros = sum(int((np.asarray(weight) == 0).sum()) for weight in _learned(model))
    return zeros / count_parameters(model)


def layer_costs(model: keras.Model, height_px: int, width_px: int) -> list[LayerCost]:
    """Cost of every layer with parameters, in the model's order.

    Multiply-accumulates are those of convolutions and dense layers, biases and everything else left out, for one image
    of `height_px` x `width_px`; a layer that is called twice counts twice.
    """
    fixed = keras.models.clone_model(model, input_tensors=keras.Input((height_px, width_px, 3)))
    return [
        LayerCost(layer.name, sum(prod(weight.shape) for weight in layer.trainable_weights), _macs(layer))
        for layer in fixed.layers
        if layer.trainable_weights
    ]


def count_macs(model: keras.Model, height_px: int, width_px: int) -> int:
    """Multiply-accumulates of one image, summed over `layer_costs`."""
    return sum(cost.macs for cost in layer_costs(model, height_px, width_px))


def _macs(layer: keras.layers.Layer) -> int:
    if not isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)):
        return 0
    kernel = prod(layer.kernel.shape)
    # A kernel is applied once at each output position; a dense layer has one position.
    return sum(kernel * prod(node.output_tensors[0].shape[1:-1]) for node in layer._inbound_nodes)


def _learned(model: keras.Model) -> list[keras.Variable]:
    return [weight for weight in model.weights if weight.trainable]
