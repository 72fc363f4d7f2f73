"""Batch normalisation folded into the convolutions before it: the same function for inference, with fewer layers."""

from typing import Any

import keras
import numpy as np
from keras import layers

from lib.arrays import FloatArray


def fold_batch_norms(model: keras.Model) -> keras.Model:
    """A copy of a functional model for inference only, without any batch normalisation.

    One that alone follows a linear convolution becomes part of its kernel and bias (Jacob et al., arXiv 1712.05877,
    section 3.2) and is gone; any other becomes a scale and an offset for each channel. The outputs are equal but for
    rounding; moving statistics count as they are, so the copy must not be trained.
    """
    norms = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    norm_names = {norm.name for norm in norms}
    absorbed = {norm.name: maker for norm in norms if (maker := _foldable_maker(norm)) is not None}
    norm_of = {maker.name: model.get_layer(name) for name, maker in absorbed.items()}

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if layer.name in norm_of:
            return type(layer).from_config({**config, "use_bias": True})
        if layer.name in absorbed:
            return layers.Identity(name=layer.name)
        if isinstance(layer, layers.BatchNormalization):
            scale, offset = scale_and_offset(layer)
            return layers.Rescaling(scale.tolist(), offset.tolist(), name=layer.name)
        return type(layer).from_config(config)

    def call(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        return layer(args[0]) if layer.name in norm_names else layer(*args, **kwargs)  # a norm's call has more options

    folded = keras.models.clone_model(model, clone_function=copy, call_function=call)
    for layer in model.layers:
        if layer.name in norm_of:
            folded.get_layer(layer.name).set_weights(_folded_weights(layer, norm_of[layer.name]))
        elif layer.weights and layer.name not in norm_names:
            folded.get_layer(layer.name).set_weights(layer.get_weights())
    return folded


def _foldable_maker(norm: keras.layers.Layer) -> keras.layers.Layer | None:
    """The linear convolution whose output goes nowhere but into `norm`, None if there is no such."""
    if len(norm._inbound_nodes) != 1 or norm.axis not in (-1, 3):
        return None
    maker = norm.input._keras_history.operation
    known = type(maker) in (layers.Conv2D, layers.DepthwiseConv2D)
    if not known or maker.activation is not keras.activations.linear:
        return None
    return maker if len(maker._inbound_nodes) == 1 and len(maker._outbound_nodes) == 1 else None


def scale_and_offset(norm: keras.layers.Layer) -> tuple[FloatArray, FloatArray]:
    """float64 [channels] each: what the normalisation multiplies by, and what it then adds."""
    mean, variance = (np.asarray(statistic, np.float64) for statistic in (norm.moving_mean, norm.moving_variance))
    scale = 1 / np.sqrt(variance + norm.epsilon)
    if norm.scale:
        scale = scale * np.asarray(norm.gamma, np.float64)
    offset = -mean * scale
    return scale, offset + np.asarray(norm.beta, np.float64) if norm.center else offset


def _folded_weights(convolution: Any, norm: keras.layers.Layer) -> list[FloatArray]:
    """Kernel and bias, float32, of convolution and normalisation in one."""
    scale, offset = scale_and_offset(norm)
    kernel = np.asarray(convolution.kernel, np.float64)
    # A depthwise kernel ends in [channels, multiplier], any other in [filters].
    per_channel = scale.reshape(kernel.shape[2:]) if isinstance(convolution, layers.DepthwiseConv2D) else scale
    bias = np.asarray(convolution.bias, np.float64) if convolution.use_bias else 0.0
    return [(kernel * per_channel).astype(np.float32), (bias * scale + offset).astype(np.float32)]
