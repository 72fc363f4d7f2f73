"""What each kind of layer does to channels. A channel is an index of a tensor's last axis.

A layer that is not Keras' own says by a class attribute what it does:

    channel_kind       "pass", "l2norm", "sum", "product", "join" or "opaque", as listed below. It makes no channels,
                       and of zeros a zero. A weight whose last axis is as long as the channels runs over them.

and a "sum" whose operands each have a factor, so that it is no more than that factor when one operand is left, by

    operand_weights()  the factors, a list of float; none of its weights then runs over channels.
    crops_to_first     True if the first operand says to which height and width the others are cropped.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import keras
import numpy as np
from keras import layers, ops

from lib.arrays import FloatArray
from lib.errors import ModelError
from lib.pruning.graph.calls import Call, Shape

# make       new channels from all that go in            depthwise  new channels, each from one that goes in
# norm       scales and shifts each channel              pass       each channel stays itself
# l2norm     each channel stays itself, divided by a norm of all; zeros add nothing to it
# sum        channel j of all operands added, or any     product    channel j of all operands multiplied
#            other way in which zeros make a zero (maxima, maps one after another along another axis)
# join       channels of the operands, one after another flatten    the same channels once for every position
# opaque     not known: what goes in or comes out is no longer followed
Kind = Literal["make", "depthwise", "norm", "pass", "l2norm", "sum", "product", "join", "flatten", "opaque"]

_OWN = ("pass", "l2norm", "sum", "product", "join", "opaque")  # what `channel_kind` may say

_PASSING = (
    layers.ZeroPadding2D,
    layers.Cropping2D,
    layers.UpSampling2D,
    layers.MaxPooling2D,
    layers.AveragePooling2D,
    layers.GlobalMaxPooling2D,
    layers.GlobalAveragePooling2D,
    layers.Dropout,
    layers.SpatialDropout2D,
    layers.GaussianNoise,
    layers.Identity,
    layers.ActivityRegularization,
    layers.ReLU,
    layers.LeakyReLU,
    layers.ELU,
    layers.PReLU,
)
_SUMS = (layers.Add, layers.Subtract, layers.Average, layers.Maximum, layers.Minimum)
# They mix channels, so that what they read and make stays as if they were protected.
MIXERS = (layers.GroupNormalization, layers.LayerNormalization)
_SHIFTS = ("Add", "Subtract")  # bare operations
_MAKERS = (layers.Conv2D, layers.Dense, layers.SeparableConv2D)
SUPPORTED = (
    "Conv2D, DepthwiseConv2D, SeparableConv2D, Dense, BatchNormalization, activations that act on each value, padding, "
    "cropping, pooling, upsampling, Dropout, Flatten, Reshape that keeps the last axis, Rescaling, additions and other "
    "sums, Multiply, Concatenate, and layers with a `channel_kind`"
)


def kind_of(call: Call, shapes: list[Shape]) -> Kind:
    """What a call does to channels.

    Raises:
        ModelError: the layer's `channel_kind` is none that a layer may have; it is named.

    """
    layer = call.layer
    ins, outs = [shapes[number] for number in call.inputs], [shapes[number] for number in call.outputs]
    if len(outs) != 1 or not ins or any(len(shape) < 2 or shape[-1] is None for shape in (*ins, *outs)):
        return "opaque"
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return "opaque"
    same_channels = all(shape[-1] == outs[0][-1] for shape in ins)
    if not isinstance(layer, keras.Layer):
        return _kind_of_operation(layer, len(ins)) if same_channels else "opaque"
    if (own := getattr(layer, "channel_kind", None)) is not None:
        return _own_kind(layer, own, same_channels)
    if type(layer) in _MAKERS:
        return "make" if acts_on_each_value(layer.activation) else "opaque"
    if type(layer) is layers.DepthwiseConv2D:
        return "depthwise" if acts_on_each_value(layer.activation) else "opaque"
    if type(layer) is layers.BatchNormalization:
        return "norm" if layer.axis in (-1, len(ins[0]) - 1) else "opaque"
    if isinstance(layer, layers.Activation):
        return "pass" if acts_on_each_value(layer.activation) else "opaque"
    if isinstance(layer, _PASSING):
        return "pass"
    if isinstance(layer, layers.Rescaling):
        return "pass" if np.ndim(layer.scale) == np.ndim(layer.offset) == 0 else "opaque"
    if isinstance(layer, layers.Reshape):
        return "pass" if same_channels else "opaque"
    if isinstance(layer, layers.Flatten):
        return "flatten" if None not in outs[0][1:] else "opaque"
    if isinstance(layer, layers.Multiply) and same_channels:
        return "product"
    if isinstance(layer, layers.Concatenate):
        if layer.axis in (-1, len(outs[0]) - 1):
            return "join"
        return "sum" if same_channels else "opaque"
    if isinstance(layer, _SUMS) and same_channels:
        return "sum"
    return "opaque"


def _own_kind(layer: Any, kind: str, same_channels: bool) -> Kind:
    if kind not in _OWN:
        raise ModelError(
            f"{layer.name} ({type(layer).__name__}): channel_kind {kind!r} is none that a layer may declare; "
            f"these are {', '.join(_OWN)}"
        )
    return kind if same_channels or kind == "join" else "opaque"  # type: ignore[return-value]


def drops_operands(layer: Any) -> bool:
    """Whether a sum stays what it is when operands that are zero are left out; others need them as zeros."""
    return isinstance(layer, layers.Add) or has_factors(layer)


def has_factors(layer: Any) -> bool:
    """Whether a layer multiplies each of its operands by a factor, `operand_weights`."""
    return hasattr(layer, "operand_weights")


def _kind_of_operation(operation: Any, operands: int) -> Kind:
    """Of a bare operation (`x + y`, `x * 0.5`); with one operand, the other is a number."""
    name = type(operation).__name__
    if not type(operation).__module__.endswith("ops.numpy"):
        return "opaque"
    if name in _SHIFTS:
        return "pass" if operands == 1 else "sum"
    if name == "Multiply":
        return "pass" if operands == 1 else "product"
    return "opaque"


@cache
def acts_on_each_value(function: Callable[[Any], Any]) -> bool:
    """Whether an activation function maps every value by itself; softmax, for one, does not."""
    values = np.tile(np.array([-3.0, -0.5, 0.5, 3.0], np.float32), (4, 1))
    changed = values + 2 * np.eye(4, dtype=np.float32)  # one value a row
    try:
        before, after = (np.asarray(function(ops.convert_to_tensor(array))) for array in (values, changed))
    except Exception:  # a function that wants other shapes is none that acts on each value
        return False
    return before.shape == after.shape == values.shape and bool((before == after)[~np.eye(4, dtype=bool)].all())


def keeps_zero(layer: Any) -> bool:
    """Whether a call that makes or passes channels leaves a zero a zero: f(0) = 0."""
    if isinstance(layer, layers.Rescaling):
        return bool(layer.offset == 0)
    if not isinstance(layer, keras.Layer):
        return type(layer).__name__ not in _SHIFTS
    if isinstance(layer, layers.ReLU):
        return bool(layer.negative_slope == 0 or layer.threshold <= 0)
    activation = getattr(layer, "activation", None)
    return activation is None or _of_zero(activation) == 0


@cache
def _of_zero(function: Callable[[Any], Any]) -> float:
    return float(np.asarray(function(ops.zeros((1, 1))))[0, 0])


def weight_axes(layer: Any, inward: Any, outward: Any) -> list[tuple[keras.Variable, dict[int, Any]]]:
    """Every weight of a layer with the channels that its axes run over: axis -> `inward` or `outward`.

    Axes that run over no channels (a kernel's height, a depth multiplier) are left out.

    Args:
        inward, outward: arrays with an entry for each channel that goes in and comes out.

    """
    if has_factors(layer):
        return [(weight, {}) for weight in layer.weights]
    found = []
    for weight in layer.weights:
        axes: dict[int, Any] = {}
        if weight.name.endswith("kernel"):
            axes = _kernel_axes(layer, weight, inward, outward)
        elif weight.shape and weight.shape[-1] == len(outward):
            axes = {len(weight.shape) - 1: outward}
        found.append((weight, axes))
    return found


def _kernel_axes(layer: Any, kernel: keras.Variable, inward: Any, outward: Any) -> dict[int, Any]:
    rank = len(kernel.shape)
    if isinstance(layer, layers.SeparableConv2D):
        if kernel is layer.depthwise_kernel:
            return {2: inward}
        return {2: np.repeat(inward, layer.depth_multiplier), 3: outward}
    if isinstance(layer, layers.DepthwiseConv2D):
        return {2: inward}
    if isinstance(layer, layers.Conv2D):
        return {2: inward[: kernel.shape[2]], 3: outward}  # of a grouped one, the first group stands for all
    return {rank - 2: inward, rank - 1: outward}


def filters_of(layer: Any) -> FloatArray:
    """The kernel that makes a layer's channels, [..., channels], float64."""
    kernel = layer.pointwise_kernel if isinstance(layer, layers.SeparableConv2D) else layer.kernel
    values = np.asarray(kernel, np.float64)
    return values.reshape(*values.shape[:2], 1, -1) if isinstance(layer, layers.DepthwiseConv2D) else values


def written(layer: Any, kind: Kind) -> list[keras.Variable]:
    """The variables that must be zero for a channel that the layer makes or normalises to be zero.

    Each ends in the layer's channels, a depthwise kernel in [channels in, multiplier]. A batch normalisation without
    gamma has its moving mean there instead: zero less a mean of zero is zero.
    """
    if kind == "norm":
        names = ("gamma" if layer.scale else "moving_mean", "beta")
        return [weight for name in names if (weight := getattr(layer, name)) is not None]
    if isinstance(layer, layers.SeparableConv2D):
        return [layer.pointwise_kernel, *([layer.bias] if layer.use_bias else [])]
    return [layer.kernel, *([layer.bias] if layer.use_bias else [])]


def scale_and_offset(norm: layers.BatchNormalization) -> tuple[FloatArray, FloatArray]:
    """float64 [channels] each: what the normalisation multiplies by, and what it then adds."""
    mean, variance = (np.asarray(statistic, np.float64) for statistic in (norm.moving_mean, norm.moving_variance))
    scale = 1 / np.sqrt(variance + norm.epsilon)
    if norm.scale:
        scale = scale * np.asarray(norm.gamma, np.float64)
    offset = -mean * scale
    return scale, offset + np.asarray(norm.beta, np.float64) if norm.center else offset
