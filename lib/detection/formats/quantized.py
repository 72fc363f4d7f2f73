"""Whole numbers instead of floats: a LiteRT model of 8-bit weights and activations, its ends left in float32.

After Jacob et al., arXiv 1712.05877: weights by output channel, activations by tensor, with ranges measured on images.
What lies behind the last convolutions, and these themselves, stay in float32: one 8-bit tensor for the scores of all
levels knows 256 of them, in which most faces would be equally likely, and the offsets of a level with a wide range
would coarsen the others'.

TensorFlow is imported inside the functions that need it.
"""

from typing import Any

# Operators that hold weights, by their builtin codes' names.
_WITH_WEIGHTS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")


def quantize(calibrated: bytes) -> bytes:
    """The 8-bit model of a LiteRT model that carries the ranges of its activations."""
    from tensorflow.lite.python import convert

    return bytes(convert.mlir_quantize(calibrated, denylisted_nodes=ends(calibrated)))


def ends(content: bytes) -> list[str]:
    """Names of the tensors of a LiteRT model from the last convolutions on, on the way to the outputs."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    kinds = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    graph = model.subgraphs[0]
    maker: dict[int, Any] = {output: operator for operator in graph.operators for output in operator.outputs}
    waiting, found = list(graph.outputs), set[int]()
    while waiting:
        tensor = waiting.pop()
        if tensor in found or tensor not in maker:
            continue
        found.add(tensor)
        code = model.operatorCodes[maker[tensor].opcodeIndex]
        if kinds[max(code.builtinCode, code.deprecatedBuiltinCode)] not in _WITH_WEIGHTS:
            waiting += [source for source in maker[tensor].inputs if source >= 0]
    return sorted(graph.tensors[tensor].name.decode() for tensor in found)
