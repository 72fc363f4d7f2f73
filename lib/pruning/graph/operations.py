"""What bare Keras operations (`x + y`, `keras.ops.relu(x)`, `x[..., :8]`) do to channels."""

from collections.abc import Mapping

import keras
import numpy as np

from lib.pruning.graph.calls import Call, Shape
from lib.pruning.graph.kinds import Reading

# Of one tensor; what else they are given are numbers or arrays.
_ALONE = (
    "Relu Relu6 Sigmoid Softplus Softsign SoftShrink SparseSigmoid SparsePlus Silu Squareplus LogSigmoid LeakyRelu "
    "HardSigmoid HardSilu Elu Selu Gelu Celu TanhShrink HardTanh HardShrink Threshold Tanh Absolute Fabs Negative "
    "Square Sqrt Cbrt Exp Exp2 Expm1 Log1p Sin Cos Tan Sinh Cosh Arcsin Arctan Arcsinh Erf Sign Round Floor Ceil Trunc "
    "Clip Cast StopGradient Copy NanToNum Power DivideNoNan"
)
_SUMS = frozenset(("Add", "Subtract", "Maximum", "Minimum", "Fmax", "Fmin"))
_PRODUCTS = frozenset(("Multiply", "Divide", "TrueDivide"))
_BY_VALUE = frozenset(_ALONE.split(" ")) | _SUMS | _PRODUCTS
_OVER_POSITIONS = frozenset(("Mean", "Max", "Min", "Amax", "Amin", "Sum", "Var", "Std"))
_POOLS = frozenset(("MaxPool", "AveragePool", "Resize"))
_ORDER = ("Reshape", "Transpose", "Moveaxis", "Swapaxes", "Stack", "ExpandDims", "Squeeze", "Flip", "Concatenate")
_CHOICE = ("GetItem", "Split", "ArraySplit", "Take", "Repeat", "Tile", "BroadcastTo")
_BLOCKS = ("DepthToSpace", "SpaceToDepth")
_MOVES = frozenset(_ORDER + _CHOICE + _BLOCKS)


def reading_of(call: Call, shapes: list[Shape], axes: Mapping[int, int]) -> Reading:
    """What an operation's call does to channels.

    Args:
        axes: by tensor number, the axis of its channels.

    """
    name = type(call.layer).__name__
    if not type(call.layer).__module__.startswith("keras.src.ops."):
        return Reading("opaque", refused=True)
    known = all(len(shapes[n]) > axes[n] > 0 and shapes[n][axes[n]] is not None for n in call.inputs)
    if not call.inputs or not known:
        return Reading("opaque")
    found: Reading | None = None
    if name in _BY_VALUE:
        found = _one_tensor(call, shapes, axes) if len(call.inputs) == 1 else _two_tensors(call, shapes, axes)
    elif name in _OVER_POSITIONS:
        found = _reduced(call, shapes, axes)
    elif name in _POOLS:
        first = getattr(call.layer, "data_format", None) == "channels_first"
        padded = getattr(call.layer, "pad_to_aspect_ratio", False)
        found = None if first or padded or not _last(call.inputs[0], shapes, axes) else Reading("pass")
    elif name == "Normalize":
        along = call.layer.axis in (-1, len(shapes[call.inputs[0]]) - 1) and _last(call.inputs[0], shapes, axes)
        found = Reading("l2norm") if along and call.layer.order == 2 else None
    elif name == "Concatenate" and len({axes[number] for number in call.inputs}) == 1:
        found = _joined(call, shapes, axes)
    elif name in _MOVES:
        last = name == "Reshape" and _last(call.inputs[0], shapes, axes)
        same = last and shapes[call.inputs[0]][-1] == shapes[call.outputs[0]][-1]
        found = Reading("pass") if same else Reading("move")
    return found or Reading("opaque", why="mixes channels" if name in _OVER_POSITIONS else "reads it")


def _last(number: int, shapes: list[Shape], axes: Mapping[int, int]) -> bool:
    return axes[number] == len(shapes[number]) - 1


def _one_tensor(call: Call, shapes: list[Shape], axes: Mapping[int, int]) -> Reading | None:
    """f(x) or x * array; channels must not come to be more by broadcasting."""
    number, out = call.inputs[0], shapes[call.outputs[0]]
    shape, axis = shapes[number], axes[number]
    from_end = axis - len(shape)
    if len(out) < -from_end or out[from_end] != shape[axis] or -from_end >= len(out):
        return None
    ones = tuple(shape[axis] if at == axis else 1 for at in range(len(shape)))
    zeros = keras.ops.zeros(ones, keras.backend.standardize_dtype(call.node.input_tensors[0].dtype))
    args, kwargs = call.arguments({number: zeros})
    made = np.asarray(keras.ops.convert_to_numpy(call.layer(*args, **kwargs)), np.float64)
    return Reading("pass", keeps=not made.any()) if np.isfinite(made).all() else None


def _two_tensors(call: Call, shapes: list[Shape], axes: Mapping[int, int]) -> Reading | None:
    """X + y, channel by channel, or x * s where s has one value for all channels of x."""
    name = type(call.layer).__name__
    if len(call.inputs) != 2:
        return None
    ends = [axes[number] - len(shapes[number]) for number in call.inputs]
    sizes = [shapes[number][axes[number]] for number in call.inputs]
    if ends[0] == ends[1] and sizes[0] == sizes[1]:
        if name == "Multiply":
            return Reading("product")
        return Reading("sum") if name in _SUMS else None
    for main, other in ((0, 1), (1, 0)):
        shape, end = shapes[call.inputs[other]], ends[main]
        spread = len(shape) < -end or shape[end] == 1
        if spread and -end < len(shapes[call.outputs[0]]):
            if name in _PRODUCTS and (main == 0 or name == "Multiply"):
                return Reading("pass", main=main)
            return Reading("pass", main=main, keeps=False) if name in _SUMS else None
    return None


def _reduced(call: Call, shapes: list[Shape], axes: Mapping[int, int]) -> Reading | None:
    """A reduction over positions; over channels it is none that could lose some of them."""
    number, op = call.inputs[0], call.layer
    rank, axis = len(shapes[number]), axes[number]
    if op.axis is None or getattr(op, "initial", None) is not None or getattr(op, "where", None) is not None:
        return None
    over = {one % rank for one in ([op.axis] if isinstance(op.axis, int) else op.axis)}
    if over & {0, axis}:
        return None
    return Reading("pass", axis=axis if op.keepdims else axis - sum(one < axis for one in over))


def _joined(call: Call, shapes: list[Shape], axes: Mapping[int, int]) -> Reading | None:
    axis = axes[call.inputs[0]]
    if call.layer.axis % len(shapes[call.inputs[0]]) == axis:
        return Reading("join")
    return Reading("sum") if len({shapes[number][axis] for number in call.inputs}) == 1 else None
