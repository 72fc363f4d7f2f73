"""What each kind of layer does to channels. Of every tensor one axis holds the channels, the last one as a rule.

A layer that is not Keras' own says by a class attribute what it does:

    channel_kind       "pass", "l2norm", "sum", "product", "join" or "opaque", as listed below. It makes no channels,
                       and of zeros a zero. A weight whose last axis is as long as the channels runs over them.
    channel_sizes      names of the entries of its configuration that are the number of channels; none if left out.

A class that cannot be changed joins by `register(Layer, kind="pass", sizes=("dim",))`. A "sum" whose operands each have
a factor, so that it is no more than that factor when one operand is left, says so by

    operand_weights()  the factors, a list of float; none of its weights then runs over channels.
    crops_to_first     True if the first operand says to which height and width the others are cropped.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import keras
import numpy as np
from keras import layers, ops

from lib.errors import ConfigError, ModelError
from lib.pruning.graph.calls import Call, Shape

# make       new channels from all that go in            depthwise  new channels, each from one that goes in
# norm       scales and shifts each channel              pass       each channel stays itself
# l2norm     each channel stays itself, divided by a norm of all; zeros add nothing to it
# sum        channel j of all operands added, or any     product    channel j of all operands multiplied
#            other way in which zeros make a zero (maxima, maps one after another along another axis)
# join       channels of the operands, one after another move       values change their places and nothing else
# opaque     not known, or no channel could go exactly: what goes in or comes out stays
# heads      the same; but of what is inside, whole heads of attention, some may go
Kind = Literal["make", "depthwise", "norm", "pass", "l2norm", "sum", "product", "join", "move", "opaque", "heads"]
MAKERS = ("make", "depthwise")
CLOSED = ("opaque", "heads")
WEIGHTED = ("make", "depthwise", "norm")  # kinds whose weights are masked

_OWN = ("pass", "l2norm", "sum", "product", "join", "opaque")  # what a layer may say of itself
_BY_VALUE = (
    layers.Dropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    layers.GaussianDropout,
    layers.AlphaDropout,
    layers.GaussianNoise,
    layers.Identity,
    layers.ActivityRegularization,
    layers.ReLU,
    layers.LeakyReLU,
    layers.ELU,
)
# A channel that is one constant everywhere stays that constant.
STEADY = (
    *(layers.Cropping1D, layers.Cropping2D, layers.Cropping3D),
    *(layers.UpSampling1D, layers.UpSampling2D, layers.UpSampling3D),
    *(layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D),
    *(layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D),
    *(layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D),
    *(layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D),
)
_OVER_POSITIONS = (
    *STEADY,
    *(layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D),
    layers.PReLU,
    layers.Resizing,
)
_SUMS = (layers.Add, layers.Subtract, layers.Average, layers.Maximum, layers.Minimum)
_MOVES = (layers.Flatten, layers.Permute, layers.RepeatVector)
TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
RECURRENT = (layers.SimpleRNN, layers.GRU, layers.LSTM)
_CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
_MAKERS = (*_CONVOLUTIONS, *TRANSPOSED, *SEPARABLE, layers.Dense)
_FOREIGN = ("Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer")  # run code that nobody can read here
_WHY = {
    "LayerNormalization": "takes a mean over all channels, which would change",
    "GroupNormalization": "normalises along another axis than the channels'",
    "BatchNormalization": "normalises along another axis than the channels'",
    "Softmax": "divides by a sum over all channels",
    "Dense": "reads another axis than the channels'",
    "MultiHeadAttention": "compares whole vectors of channels",
}
SUPPORTED = (
    "Keras' own layers, Lambda apart, the operations of keras.ops, layers with a `channel_kind` and `register`ed ones"
)
_REGISTERED: dict[type, tuple[Kind, tuple[str, ...]]] = {}
# Layers of keras.applications that Keras does not export.
_APPLICATIONS: Mapping[str, tuple[Kind, tuple[str, ...]]] = {
    "LayerScale": ("pass", ("projection_dim",)),
    "StochasticDepth": ("pass", ()),
    "CustomScaleLayer": ("sum", ()),
}


@dataclass(frozen=True)
class Reading:
    """What a call does to channels.

    Attributes:
        kind: as listed above.
        main: which input the channels come from, where it is one of several ("pass" only).
        keeps: whether zeros that go in come out as zeros.
        axis: of the output's channels; None: as far from the end as the input's.
        mixes: whether a maker's activation mixes its channels, so that they stay.
        why: of "opaque", in the words of "NAME why".
        refused: whether a model with it is refused, unless the layer is protected or stands at an end.

    """

    kind: Kind
    main: int = 0
    keeps: bool = True
    axis: int | None = None
    mixes: bool = False
    why: str = "reads it"
    refused: bool = False


def register(layer: type, kind: str, sizes: tuple[str, ...] = ()) -> None:
    """Tells what a layer class does to channels, as its attributes `channel_kind` and `channel_sizes` would.

    Args:
        layer: the class itself; classes derived from it are other layers.
        kind: what `channel_kind` may say.
        sizes: see `channel_sizes`.

    Raises:
        ConfigError: there is no such kind.

    """
    if kind not in _OWN:
        raise ConfigError(f"{layer.__name__}: {kind!r} is no kind that a layer may have; these are {', '.join(_OWN)}")
    _REGISTERED[layer] = (kind, sizes)  # type: ignore[assignment]


def own_kind(layer: Any) -> tuple[Kind, tuple[str, ...]] | None:
    """What a layer says of itself or was registered with: its kind, and its entries that are numbers of channels.

    Raises:
        ModelError: the layer's `channel_kind` is none that a layer may have; it is named.

    """
    if type(layer) in _REGISTERED:
        return _REGISTERED[type(layer)]
    if (kind := getattr(layer, "channel_kind", None)) is not None:
        if kind not in _OWN:
            raise ModelError(
                f"{layer.name} ({type(layer).__name__}): channel_kind {kind!r} is none that a layer may declare; "
                f"these are {', '.join(_OWN)}"
            )
        return kind, tuple(getattr(layer, "channel_sizes", ()))
    if type(layer).__module__.startswith("keras.src.applications."):
        return _APPLICATIONS.get(type(layer).__name__)
    return None


def kind_of(call: Call, shapes: list[Shape], axes: Mapping[int, int]) -> Reading:
    """What the call of a layer does to channels.

    Args:
        axes: by tensor number, the axis of its channels.

    Raises:
        ModelError: see `own_kind`.

    """
    layer = call.layer
    if (own := own_kind(layer)) is not None:
        last = all(axes[number] == len(shapes[number]) - 1 for number in call.inputs)
        return _own_reading(own[0] if last else "opaque", [shapes[number] for number in (*call.inputs, *call.outputs)])
    if not type(layer).__module__.startswith("keras.src.layers.") or type(layer).__name__ in _FOREIGN:
        return Reading("opaque", refused=True)
    opaque = Reading("opaque", why=_WHY.get(type(layer).__name__, "reads it"))
    if type(layer) is layers.MultiHeadAttention and not getattr(layer, "quantization_mode", None):
        return Reading("heads", why=opaque.why) if len(call.outputs) == 1 else opaque
    if len(call.outputs) != 1 or not call.inputs:
        return opaque
    shape, out = shapes[call.inputs[0]], shapes[call.outputs[0]]
    if type(layer) is layers.Embedding:
        return opaque if _adapted(layer) else Reading("make")
    if any(len(shapes[number]) < 2 or shapes[number][axes[number]] is None for number in call.inputs):
        return opaque
    kind: Kind | None = None
    if len(call.inputs) - _masked(call) > 1 or type(layer) in (*_SUMS, layers.Multiply, layers.Concatenate):
        return _reading_of_merge(layer, call, shapes, axes) or opaque
    if acts_alone(layer):
        kind = "pass"
    elif type(layer) is layers.BatchNormalization:
        kind = "norm" if layer.axis % len(shape) == axes[call.inputs[0]] else None
    elif type(layer) in _MOVES:
        kind = "move"
    elif type(layer) is layers.Reshape:
        last = axes[call.inputs[0]] == len(shape) - 1 and shape[-1] == out[-1]
        kind = "pass" if last else "move"
    elif axes[call.inputs[0]] == len(shape) - 1 and getattr(layer, "data_format", "channels_last") == "channels_last":
        kind = _kind_along_last(layer, shape)
    if kind == "make" and not acts_on_each_value(layer.activation):
        return Reading("make", keeps=False, mixes=True)
    return Reading(kind, keeps=keeps_zero(layer)) if kind else opaque


def _masked(call: Call) -> bool:
    """Whether the last tensor that a layer of one input is given says which of its positions count."""
    mask = call.node.arguments.kwargs.get("mask")
    taking = (layers.BatchNormalization, layers.GlobalAveragePooling1D, *RECURRENT)
    return isinstance(mask, keras.KerasTensor) and type(call.layer) in taking and len(call.inputs) == 2


def _own_reading(kind: Kind, shapes: list[Shape]) -> Reading:
    known = all(len(shape) >= 2 and shape[-1] is not None for shape in shapes) and len({s[-1] for s in shapes}) == 1
    return Reading(kind if known or kind == "join" else "opaque")


def _reading_of_merge(layer: Any, call: Call, shapes: list[Shape], axes: Mapping[int, int]) -> Reading | None:
    ins = [shapes[number] for number in call.inputs]
    axis = {axes[number] for number in call.inputs}
    if len(axis) > 1 or len({len(shape) for shape in ins}) > 1:
        return None
    along = axis.pop()
    sizes = [shape[along] for shape in ins]
    same = len(set(sizes)) == 1
    if type(layer) is layers.Concatenate:
        if layer.axis % len(ins[0]) == along:
            return Reading("join")
        return Reading("sum") if same else None
    if same and type(layer) in (*_SUMS, layers.Multiply):
        return Reading("product" if type(layer) is layers.Multiply else "sum")
    if len(ins) == 2 and 1 in sizes and type(layer) in (*_SUMS, layers.Multiply):  # one value for all channels
        return Reading("pass", main=1 - sizes.index(1), keeps=type(layer) is layers.Multiply)
    return None


def _kind_along_last(layer: Any, shape: Shape) -> Kind | None:
    """Of a layer of one input [B, ..., channels] that is none of those that act on each value."""
    kind = type(layer)
    if kind in _OVER_POSITIONS:
        return None if getattr(layer, "pad_to_aspect_ratio", False) else "pass"
    if kind is layers.GroupNormalization:
        return "norm" if layer.axis in (-1, len(shape) - 1) else None
    if kind in (layers.UnitNormalization, layers.RMSNormalization):
        axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0] if len(layer.axis) == 1 else None
        return "l2norm" if axis in (-1, len(shape) - 1) else None
    if _adapted(layer):
        return None
    if kind in RECURRENT:
        free = not (layer.return_state or layer.stateful) and keeps_zero(layer)
        gates = acts_on_each_value(getattr(layer, "recurrent_activation", keras.activations.linear))
        return "make" if free and gates and acts_on_each_value(layer.activation) else None
    if kind in DEPTHWISE or by_channel(layer):
        return "depthwise" if acts_on_each_value(layer.activation) else None
    return "make" if kind in _MAKERS else None


def _adapted(layer: Any) -> bool:
    """Whether a layer's values are not in its kernel alone: it is quantised, or has low-rank adapters."""
    return bool(getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False))


def by_channel(layer: Any) -> bool:
    """Whether a grouped convolution has one group for each channel that it reads."""
    return type(layer) in _CONVOLUTIONS and layer.groups > 1 and layer.kernel.shape[-2] == 1


def acts_alone(layer: Any) -> bool:
    """Whether a layer maps every value by itself, wherever it stands."""
    if type(layer) is layers.Activation:
        return acts_on_each_value(layer.activation)
    if type(layer) is layers.Rescaling:
        return bool(np.ndim(layer.scale) == np.ndim(layer.offset) == 0)
    return type(layer) in _BY_VALUE


def drops_operands(layer: Any) -> bool:
    """Whether a sum stays what it is when operands that are zero are left out; others need them as zeros."""
    return type(layer).__name__ == "Add" or has_factors(layer)


def has_factors(layer: Any) -> bool:
    """Whether a layer multiplies each of its operands by a factor, `operand_weights`."""
    return hasattr(layer, "operand_weights")


@cache
def acts_on_each_value(function: Callable[[Any], Any]) -> bool:
    """Whether an activation function maps every value by itself; softmax, for one, does not."""
    values = np.tile(np.array([-3.0, -0.5, 0.5, 3.0], np.float32), (4, 1))
    changed = values + 2 * np.eye(4, dtype=np.float32)  # one value a row
    try:
        before, after = (ops.convert_to_numpy(function(ops.convert_to_tensor(array))) for array in (values, changed))
    except Exception:  # a function that wants other shapes is none that acts on each value
        return False
    return before.shape == after.shape == values.shape and bool((before == after)[~np.eye(4, dtype=bool)].all())


def keeps_zero(layer: Any) -> bool:
    """Whether a layer that makes or passes channels leaves a zero a zero: f(0) = 0."""
    if isinstance(layer, layers.Rescaling):
        return bool(layer.offset == 0)
    if isinstance(layer, layers.ReLU):
        return bool(layer.negative_slope == 0 or layer.threshold <= 0)
    activation = getattr(layer, "activation", None)
    return activation is None or _of_zero(activation) == 0


@cache
def _of_zero(function: Callable[[Any], Any]) -> float:
    return float(ops.convert_to_numpy(function(ops.zeros((1, 1))))[0, 0])
