"""The operators that a frozen graph may hold: a graph is a program, and this is what makes it a harmless one."""

from pathlib import Path
from typing import Any

from lib.errors import ModelError

# Operators that compute and do nothing else. A graph may read and write files too, and runs with all the rights of the
# program, so one with any other operator is refused. `freeze` emits for detectors of this toolkit:
OF_DETECTORS = frozenset(
    """
    AddV2 AvgPool BatchToSpaceND BiasAdd Cast ConcatV2 Const Conv2D DepthwiseConv2dNative EnsureShape Enter Exit Exp
    ExpandDims Fill FloorDiv FloorMod GatherV2 Identity Less LogicalAnd LoopCond Max MaxPool Maximum Mean Merge Minimum
    Mul NextIteration NonMaxSuppressionV4 OnesLike Pack Pad Placeholder Range RealDiv Relu Relu6 Reshape ResizeBilinear
    ResizeNearestNeighbor Rsqrt SelectV2 Shape Sigmoid Size SpaceToBatchND Sqrt Square SquaredDifference Squeeze
    StridedSlice Sub Sum Switch TensorListFromTensor TensorListGetItem TensorListReserve TensorListSetItem
    TensorListStack Tile TopKV2
    """.split()  # noqa: SIM905
)
# and for what else a network may be made of, and earlier versions.
_OF_OTHERS = frozenset(
    """
    Abs AddN All Any ArgMax BatchMatMulV2 BroadcastTo ConcatOffset Conv2DBackpropInput CropAndResize DepthToSpace Elu
    Equal Erf Floor FusedBatchNormV3 Gather Greater GreaterEqual IdentityN LRN LeakyRelu LessEqual Log Log1p LogSoftmax
    LogicalNot LogicalOr MatMul Min MirrorPad Neg NotEqual OneHot PadV2 Pow Prod Rank Reciprocal ResizeBicubic ReverseV2
    Round Select Selu ShapeN Sign Slice Softmax Softplus Softsign SpaceToDepth Split SplitV StopGradient Tanh Transpose
    Unpack Where ZerosLike
    """.split()  # noqa: SIM905
)


def require_harmless(file: Path, graph_def: Any) -> None:
    """Raises ModelError unless a graph consists of known operators alone, which can do nothing but compute."""
    functions = [function.signature.name for function in graph_def.library.function]
    unknown = {node.op: node.name for node in graph_def.node if node.op not in OF_DETECTORS | _OF_OTHERS}
    if unknown or functions:
        what = ", ".join([*(f"{op} ({name})" for op, name in sorted(unknown.items())), *functions][:10])
        raise ModelError(
            f"{file}: refused, nothing in it was executed: it holds {what}, which no detector of tools/auto_freeze.py "
            "has; write it anew from the checkpoint"
        )
