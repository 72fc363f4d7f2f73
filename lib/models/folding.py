"""Batch normalisation folded into the convolutions before it: the same function for inference, with fewer layers."""

from collections import Counter
from collections.abc import Iterator
from itertools import count
from typing import Any

import keras
import numpy as np
from keras import layers

from lib.arrays import FloatArray
from lib.pruning.graph.calls import Call, Calls
from lib.pruning.graph.copies import copied, give_weights, rebuilt
from lib.pruning.graph.weights import scale_and_offset


def fold_batch_norms(model: keras.Model) -> keras.Model:
    """A copy of a functional model for inference only, without any batch normalisation.

    One that alone follows a linear convolution becomes part of its kernel and bias (Jacob et al., arXiv 1712.05877,
    section 3.2) and is gone; any other becomes a scale and an offset for each channel. The outputs are equal but for
    rounding; moving statistics count as they are, so the copy must not be trained. Nested models are taken apart.

    Raises:
        ModelError: the model is no functional model.

    """
    calls = Calls(model)
    maker_of = _foldable(calls)
    norm_of = {id(maker): norm for norm, maker in maker_of.values()}
    copies: dict[int, Any] = {}
    names: set[str] = set()

    def copy(layer: Any, rank: int) -> Any:
        name = next(name for name in _names(layer.name) if name not in names)
        names.add(name)
        if id(layer) in maker_of:
            return layers.Identity(name=name)
        if isinstance(layer, layers.BatchNormalization):
            behind = (1,) * (rank - 1 - layer.axis % rank)
            scale, offset = (values.reshape(-1, *behind) for values in scale_and_offset(layer))
            return layers.Rescaling(scale.tolist(), offset.tolist(), name=name)
        return copied(layer, name=name, **({"use_bias": True} if id(layer) in norm_of else {}))

    def make(_: int, call: Call, tensors: dict[int, Any]) -> Any:
        if id(call.layer) not in copies:
            copies[id(call.layer)] = copy(call.layer, len(calls.shapes[call.inputs[0]]))
        if isinstance(call.layer, layers.BatchNormalization):  # its call has more options
            return copies[id(call.layer)](tensors[call.inputs[0]])
        args, kwargs = call.arguments(tensors)
        return copies[id(call.layer)](*args, **kwargs)

    folded = rebuilt(calls, make)
    for layer in {id(call.layer): call.layer for call in calls.calls}.values():
        if id(layer) in norm_of:
            give_weights(copies[id(layer)], _folded_weights(layer, norm_of[id(layer)]))
        elif getattr(layer, "weights", None) and not isinstance(layer, layers.BatchNormalization):
            give_weights(copies[id(layer)], layer.get_weights())
    return folded


def _names(name: str) -> Iterator[str]:
    """A layer's name, and more for its namesakes in nested models, which become one model."""
    yield name
    yield from (f"{name}_{number}" for number in count(2))


def _foldable(calls: Calls) -> dict[int, tuple[Any, Any]]:
    """By the id of a normalisation: it, and the linear convolution whose output goes nowhere but into it."""
    uses = Counter(id(call.layer) for call in calls.calls)
    found = {}
    for call in calls.calls:
        maker = call.layer
        if type(maker) not in (layers.Conv2D, layers.DepthwiseConv2D) or uses[id(maker)] > 1:
            continue
        readers = calls.readers[call.outputs[0]]
        if maker.activation is not keras.activations.linear or len(readers) != 1 or call.outputs[0] in calls.outputs:
            continue
        norm = calls.calls[readers[0]].layer
        if isinstance(norm, layers.BatchNormalization) and norm.axis in (-1, 3) and uses[id(norm)] == 1:
            found[id(norm)] = (norm, maker)
    return found


def _folded_weights(convolution: Any, norm: keras.layers.Layer) -> list[FloatArray]:
    """Kernel and bias, float32, of convolution and normalisation in one."""
    scale, offset = scale_and_offset(norm)
    kernel = np.asarray(convolution.kernel, np.float64)
    # A depthwise kernel ends in [channels, multiplier], any other in [filters].
    per_channel = scale.reshape(kernel.shape[2:]) if isinstance(convolution, layers.DepthwiseConv2D) else scale
    bias = np.asarray(convolution.bias, np.float64) if convolution.use_bias else 0.0
    return [(kernel * per_channel).astype(np.float32), (bias * scale + offset).astype(np.float32)]
