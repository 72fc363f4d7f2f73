"""What will make an exported detector slower than it need be, and what to do about it: before a user finds out."""

from collections import Counter
from collections.abc import Sequence

import keras
from keras import layers

from lib.models import inference_model
from lib.models.folding import fold_batch_norms
from lib.models.layers import MaxoutBackground

# LiteRT's operators that XNNPACK, its fast path on CPUs, takes over. Others run in LiteRT's own plain loops.
# fmt: off
XNNPACK = frozenset((
    "ABS", "ADD", "AVERAGE_POOL_2D", "CEIL", "CONCATENATION", "CONV_2D", "DEPTH_TO_SPACE", "DEPTHWISE_CONV_2D",
    "DEQUANTIZE", "DIV", "ELU", "EXP", "EXPAND_DIMS", "FLOOR", "FULLY_CONNECTED", "GELU", "HARD_SWISH",
    "LEAKY_RELU", "LOGISTIC", "MAX_POOL_2D", "MAXIMUM", "MEAN", "MINIMUM", "MUL", "NEG", "PAD", "PRELU",
    "QUANTIZE", "RELU", "RELU6", "RELU_N1_TO_1", "RESHAPE", "RESIZE_BILINEAR", "ROUND", "RSQRT", "SLICE",
    "SOFTMAX", "SPACE_TO_DEPTH", "SPLIT", "SQRT", "SQUARE", "SQUARED_DIFFERENCE", "STRIDED_SLICE", "SUB", "SUM",
    "TANH", "TRANSPOSE", "TRANSPOSE_CONV",
))
# fmt: on
DIVISORS = {"float32": 4, "float16": 4, "int8": 8}  # channels that fill a register
_SHOWN = 4


def lint(model: keras.Model, precisions: Sequence[str] = ("float32",)) -> list[str]:
    """A sentence for each thing about a detector's layers that costs time on the devices it is written for.

    Args:
        precisions: what it will be written in.

    """
    found = []
    divisor = max(DIVISORS[precision] for precision in precisions)
    convolutions = [
        layer
        for layer in fold_batch_norms(inference_model(model)).layers
        if isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D)
    ]
    odd = [f"{layer.name} ({_channels(layer)})" for layer in convolutions if _channels(layer) % divisor]
    if odd:
        found.append(
            f"channels off multiples of {divisor}, which cost as much as the next multiple: {_some(odd)}; prune with "
            f"PRUNE.channel_divisor={divisor}"
        )
    multiplied = [layer.name for layer in convolutions if getattr(layer, "depth_multiplier", 1) != 1]
    if multiplied:
        found.append(
            f"depth multipliers other than 1, which phones' fast paths leave aside: {_some(multiplied)}; use "
            "depth_multiplier=1 and a 1x1 convolution in front"
        )
    return found


def fallbacks(content: bytes) -> list[str]:
    """A sentence for each kind of operator of a LiteRT model that XNNPACK leaves to LiteRT's plain loops."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    kinds = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    codes = [model.operatorCodes[operator.opcodeIndex] for operator in model.subgraphs[0].operators]
    counts = Counter(kinds[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in codes)
    return [
        f"{count} operators {kind} run outside of XNNPACK, in plain loops"
        for kind, count in sorted(counts.items())
        if kind not in XNNPACK
    ]


def _channels(layer: keras.layers.Layer) -> int:
    """What a convolution writes; 0 for a head, whose channels are what a box and a score are made of."""
    readers = [node.operation for node in layer._outbound_nodes]
    if readers and all(isinstance(reader, layers.Reshape | MaxoutBackground) for reader in readers):
        return 0
    return int(layer.output.shape[-1])


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
