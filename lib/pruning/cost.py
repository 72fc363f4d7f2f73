"""What a model costs: parameters, zeros among them, multiply-accumulates."""

import logging
from dataclasses import dataclass
from math import prod
from typing import Any

import keras
import numpy as np
from keras import layers

from lib.pruning.graph.calls import Call, Calls, Shape
from lib.pruning.graph.kinds import DEPTHWISE, RECURRENT, SEPARABLE, TRANSPOSED, own_kind

logger = logging.getLogger(__name__)

# What layers keep beside what they learn: batch and input normalisation, dropout.
_KEPT = ("moving_mean", "moving_variance", "mean", "variance", "count", "seed_generator_state")
_ONE_KERNEL = (layers.Conv1D, layers.Conv2D, layers.Conv3D, *TRANSPOSED, *DEPTHWISE, layers.Dense)
# Their weights scale or shift values, or are looked up: by convention that costs nothing.
_FREE = (
    layers.BatchNormalization,
    layers.LayerNormalization,
    layers.GroupNormalization,
    layers.RMSNormalization,
    layers.Normalization,
    layers.PReLU,
    layers.Embedding,
)


@dataclass(frozen=True)
class LayerCost:
    """Cost of one layer: learned parameters and multiply-accumulates at a given input size.

    Attributes:
        name: the layer's; of a nested model's namesake "conv#2".

    """

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

    Multiply-accumulates are those of convolutions, dense and recurrent layers and the projections of attention, biases
    and everything else left out, for one image of `height_px` x `width_px`; a layer that is called twice counts twice.
    Layers that have weights and are not known are named in the log.
    """
    graph = Calls(model)
    if unknown := uncounted(graph):
        logger.warning("MACs of layers of unknown kinds are not counted: %s", ", ".join(unknown))
    shapes = graph.shapes_at(height_px, width_px)
    macs: dict[int, int] = {}  # id of a layer -> multiply-accumulates over all its calls
    found: dict[int, Any] = {}
    for call in graph.calls:
        found[id(call.layer)] = call.layer
        met = sum(prod(kernel.shape) * positions_of(call, shapes, kernel) for kernel in kernels(call.layer))
        macs[id(call.layer)] = macs.get(id(call.layer), 0) + met
    return [
        LayerCost(
            graph.names[number],
            sum(prod(weight.shape) for weight in _learned(layer.weights)),
            macs[number],
        )
        for number, layer in found.items()
        if isinstance(layer, keras.Layer) and (_learned(layer.weights) or kernels(layer))
    ]


def count_macs(model: keras.Model, height_px: int, width_px: int) -> int:
    """Multiply-accumulates of one image, summed over `layer_costs`."""
    return sum(cost.macs for cost in layer_costs(model, height_px, width_px))


def uncounted(calls: Calls) -> list[str]:
    """The layers with weights of which it is not known what they multiply, as "name (type)"."""
    found = {id(call.layer): call.layer for call in calls.calls if isinstance(call.layer, keras.Layer)}
    return [
        f"{calls.names[number]} ({type(layer).__name__})"
        for number, layer in found.items()
        if _learned(layer.weights) and not (kernels(layer) or isinstance(layer, _FREE) or own_kind(layer))
    ]


def positions_of(call: Call, shapes: list[Shape], kernel: Any) -> int:
    """How often one image meets a kernel: at each output position, or each input position of a transposed convolution.

    Positions are the product of [B, ..., channels] without its ends. What a transposed convolution cuts off again
    (padding "same") counts. A recurrent layer meets both of its kernels at each step, attention those of its keys and
    values at each position of these.
    """
    if isinstance(call.layer, layers.MultiHeadAttention):
        of_query = kernel is call.layer.query_dense.kernel or kernel is call.layer.output_dense.kernel
        args, kwargs = call.arguments(dict(enumerate(shapes)))
        given = {**dict(zip(("query", "value"), args, strict=False)), **kwargs}
        return prod(size or 0 for size in given["query" if of_query else "value"][1:-1])
    shape = shapes[(call.inputs if isinstance(call.layer, (*TRANSPOSED, *RECURRENT)) else call.outputs)[0]]
    return prod(size or 0 for size in shape[1:-1])


def kernels(layer: Any) -> list[keras.Variable]:
    """The weights that a layer multiplies with at each of its positions; a dense layer has one position."""
    if isinstance(layer, SEPARABLE):
        return [layer.depthwise_kernel, layer.pointwise_kernel]
    if isinstance(layer, RECURRENT):
        return [layer.cell.kernel, layer.cell.recurrent_kernel]
    if isinstance(layer, layers.MultiHeadAttention):
        return [dense.kernel for dense in (layer.query_dense, layer.key_dense, layer.value_dense, layer.output_dense)]
    return [layer.kernel] if isinstance(layer, _ONE_KERNEL) else []


def is_learned(weight: keras.Variable) -> bool:
    """Whether a weight is a parameter. Not `trainable`: that is False for the weights of frozen layers too."""
    return weight.name not in _KEPT


def _learned(weights: list[keras.Variable]) -> list[keras.Variable]:
    return [weight for weight in weights if is_learned(weight)]
