"""Over which channels a layer's weights run, which of them make a channel, and how a narrower layer is configured."""

from math import sqrt
from typing import Any

import keras
import numpy as np
from keras import layers

from lib.arrays import FloatArray, IntArray
from lib.pruning.graph.kinds import DEPTHWISE, RECURRENT, SEPARABLE, TRANSPOSED, Kind, by_channel, has_factors, own_kind

# Where a layer's configuration says how many channels it makes.
_SIZE_KEYS = {
    "Dense": "units",
    "Embedding": "output_dim",
    "LSTM": "units",
    "GRU": "units",
    "SimpleRNN": "units",
    "MultiHeadAttention": "num_heads",
}
_GATES = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1}


def weight_axes(layer: Any, inward: Any, outward: Any) -> list[tuple[keras.Variable, dict[int, Any]]]:
    """Every weight of a layer with the channels that its axes run over: axis -> `inward` or `outward`.

    Axes that run over no channels (a kernel's height, a depth multiplier) are left out.

    Args:
        inward, outward: arrays with an entry for each channel that goes in and comes out.

    """
    if has_factors(layer):
        return [(weight, {}) for weight in layer.weights]
    return [(weight, _axes(layer, weight, inward, outward)) for weight in layer.weights]


def _axes(layer: Any, weight: keras.Variable, inward: Any, outward: Any) -> dict[int, Any]:
    rank = len(weight.shape)
    if weight.name == "seed_generator_state":
        return {}
    if isinstance(layer, layers.MultiHeadAttention):
        last = layer.output_dense
        if weight is last.kernel:
            return {0: outward}
        return {} if weight is last.bias else {rank - 2: outward}
    if isinstance(layer, RECURRENT):
        gates = np.tile(outward, _GATES[type(layer).__name__])
        if weight.name == "recurrent_kernel":
            return {0: outward, 1: gates}
        return {0: inward, 1: gates} if weight.name == "kernel" else {rank - 1: gates}
    if isinstance(layer, layers.Embedding):
        return {1: outward}
    if weight.name.endswith("kernel"):
        return _kernel_axes(layer, weight, inward, outward)
    return {rank - 1: outward} if weight.shape and weight.shape[-1] == len(outward) else {}


def _kernel_axes(layer: Any, kernel: keras.Variable, inward: Any, outward: Any) -> dict[int, Any]:
    last = len(kernel.shape) - 1
    if isinstance(layer, SEPARABLE) and kernel is not layer.depthwise_kernel:
        return {last - 1: np.repeat(inward, layer.depth_multiplier), last: outward}
    if isinstance(layer, (*SEPARABLE, *DEPTHWISE)):
        return {last - 1: inward}
    if isinstance(layer, TRANSPOSED):
        return {last - 1: outward, last: inward}
    if by_channel(layer):
        return {last: outward}
    return {last - 1: inward[: kernel.shape[-2]], last: outward}  # of a grouped one, the first group stands for all


def filters_of(layer: Any, dtype: Any = np.float64) -> FloatArray:
    """The kernel that makes a layer's channels, [..., channels]."""
    if isinstance(layer, layers.MultiHeadAttention):  # a head's values, and what becomes of them
        ends = (
            np.swapaxes(layer.value_dense.kernel, -1, -2),
            np.moveaxis(np.asarray(layer.output_dense.kernel), 0, -1),
        )
        return np.concatenate([end.reshape(-1, layer.num_heads) for end in ends]).astype(dtype)
    if isinstance(layer, layers.Embedding):
        return np.asarray(layer.embeddings, dtype)
    if isinstance(layer, RECURRENT):
        both = np.concatenate([np.asarray(layer.cell.kernel), np.asarray(layer.cell.recurrent_kernel)])
        return both.reshape(len(both), -1, layer.units).astype(dtype)
    values = np.asarray(layer.pointwise_kernel if isinstance(layer, SEPARABLE) else layer.kernel, dtype)
    if isinstance(layer, TRANSPOSED):
        return np.moveaxis(values, -2, -1)
    return values.reshape(*values.shape[:-2], 1, -1) if isinstance(layer, DEPTHWISE) else values


def written(layer: Any, kind: Kind) -> list[tuple[keras.Variable, IntArray]]:
    """The variables that must be zero for a channel that the layer makes or normalises to be zero.

    A batch normalisation without gamma has its moving mean there instead: zero less a mean of zero is zero.

    Returns:
        each with the channel that its values belong to, as an array that broadcasts against it.

    """
    if kind == "norm":
        first = "gamma" if layer.scale else "moving_mean"
        found = [getattr(layer, name, None) for name in (first, "beta")]
        return [(weight, np.arange(weight.shape[-1])) for weight in found if weight is not None]
    if isinstance(layer, layers.MultiHeadAttention):
        value = layer.value_dense
        heads = np.arange(layer.num_heads)[:, None]
        return [(weight, heads) for weight in (value.kernel, value.bias) if weight is not None]
    if isinstance(layer, layers.Embedding):
        return [(layer.embeddings, np.arange(layer.output_dim))]
    if isinstance(layer, RECURRENT):
        gates = np.tile(np.arange(layer.units), _GATES[type(layer).__name__])
        cell = layer.cell
        variables = [cell.kernel, cell.recurrent_kernel, *([cell.bias] if layer.use_bias else [])]
        return [(variable, gates) for variable in variables]
    kernel = layer.pointwise_kernel if isinstance(layer, SEPARABLE) else layer.kernel
    index = np.arange(kernel.shape[-1])
    if isinstance(layer, DEPTHWISE):
        index = np.arange(kernel.shape[-2] * kernel.shape[-1]).reshape(kernel.shape[-2:])
    elif isinstance(layer, TRANSPOSED):
        index = np.arange(kernel.shape[-2])[:, None]
    return [(kernel, index), *([(layer.bias, np.arange(layer.bias.shape[0]))] if layer.use_bias else [])]


def resized(layer: Any, kind: Kind, before: int, after: int) -> dict[str, Any]:
    """What changes in a layer's configuration when `after` of the `before` channels that it makes or passes stay."""
    if kind == "make" or by_channel(layer):
        changes = {_SIZE_KEYS.get(type(layer).__name__, "filters"): after}
        return {**changes, "groups": layer.groups * after // before} if by_channel(layer) else changes
    if isinstance(layer, layers.GroupNormalization) and layer.groups != -1:
        return {"groups": layer.groups * after // before}
    if isinstance(layer, layers.RMSNormalization):  # the mean of squares is over fewer, see `rescaled`
        return {"epsilon": layer.epsilon * before / after}
    own = own_kind(layer) if isinstance(layer, keras.Layer) else None
    return dict.fromkeys(own[1], after) if own else {}


def rescaled(layer: Any, before: int, after: int) -> float:
    """What the weights of a layer are multiplied by when `after` of `before` channels stay.

    For S the sum of squares over C channels, all but c of them zero,
    1 / sqrt(S / C + e) = sqrt(C / c) / sqrt(S / c + e * C / c).
    """
    return sqrt(before / after) if isinstance(layer, layers.RMSNormalization) and after else 1.0


def scale_and_offset(norm: layers.BatchNormalization) -> tuple[FloatArray, FloatArray]:
    """float64 [channels] each: what the normalisation multiplies by, and what it then adds."""
    mean, variance = (np.asarray(statistic, np.float64) for statistic in (norm.moving_mean, norm.moving_variance))
    scale = 1 / np.sqrt(variance + norm.epsilon)
    if norm.scale:
        scale = scale * np.asarray(norm.gamma, np.float64)
    offset = -mean * scale
    return scale, offset + np.asarray(norm.beta, np.float64) if norm.center else offset
