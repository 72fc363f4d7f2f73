"""Whole numbers instead of floats: a LiteRT model of 8-bit weights and activations, some of its parts left in float32.

After Jacob et al., arXiv 1712.05877: weights by output channel, activations by tensor, with ranges measured on images.
In float32 stay

- what lies behind the last convolutions, and these themselves: one 8-bit tensor for the scores of all levels knows 256
  of them, in which most faces would be equally likely, and the offsets of a level with a wide range would coarsen the
  others';
- what lies before the first convolutions, and these: they read the whole image, and adding three numbers to it takes
  8-bit kernels longer than all of a small network's first stage;
- convolutions of at most `NARROW` channels, and the concatenations that join them: an error of so few channels is
  averaged out by none, and 8-bit kernels, which make more at once, are no faster on them.

TensorFlow is imported inside the functions that need it.
"""

from collections.abc import Callable, Sequence

NARROW = 4  # channels
# Operators that hold weights, by their builtin codes' names.
_WITH_WEIGHTS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")


def quantize(calibrated: bytes) -> bytes:
    """The 8-bit model of a LiteRT model that carries the ranges of its activations."""
    from tensorflow.lite.python import convert

    return bytes(convert.mlir_quantize(calibrated, denylisted_nodes=left_in_float(calibrated)))


def left_in_float(content: bytes) -> list[str]:
    """Names of the tensors of a LiteRT model whose makers stay in float32."""
    graph = _Graph(content)
    back = graph.up_to_weights(graph.outputs, graph.sources_of)
    first = graph.up_to_weights([made for source in graph.inputs for made in graph.made_of(source)], graph.made_of)
    narrow = {tensor for tensor in graph.makers if graph.weighs(tensor) and graph.shapes[tensor][-1] <= NARROW}
    joined = {made for tensor in narrow for made in graph.made_of(tensor) if graph.kind(made) == "CONCATENATION"}
    behind = {made for tensor in joined for made in graph.made_of(tensor) if graph.kind(made) == "RELU"}
    return sorted(graph.names[tensor] for tensor in back | first | narrow | joined | behind)


class _Graph:
    """The operators of a LiteRT model, each by the tensor that it makes.

    Attributes:
        inputs, outputs: of the graph.
        makers: tensor -> kind of its operator, and the tensors that this reads.
        names, shapes: of all tensors.

    """

    def __init__(self, content: bytes) -> None:
        from ai_edge_litert import schema_py_generated as schema
        from ai_edge_litert.tools import flatbuffer_utils

        model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
        kinds = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
        graph = model.subgraphs[0]
        self.inputs, self.outputs = list(graph.inputs), list(graph.outputs)
        self.names = [tensor.name.decode() for tensor in graph.tensors]
        self.shapes = [() if tensor.shape is None else tuple(tensor.shape) for tensor in graph.tensors]
        self.makers: dict[int, tuple[str, list[int]]] = {}
        self._readers: dict[int, list[int]] = {}
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            kind, reads = (
                kinds[max(code.builtinCode, code.deprecatedBuiltinCode)],
                [t for t in operator.inputs if t >= 0],
            )
            for made in operator.outputs:
                self.makers[made] = kind, reads
                for tensor in reads:
                    self._readers.setdefault(tensor, []).append(made)

    def kind(self, tensor: int) -> str:
        """Of the operator that makes it."""
        return self.makers[tensor][0]

    def weighs(self, tensor: int) -> bool:
        """Whether its operator has weights."""
        return self.kind(tensor) in _WITH_WEIGHTS

    def sources_of(self, tensor: int) -> list[int]:
        """What its operator reads of what others make."""
        return [source for source in self.makers[tensor][1] if source in self.makers]

    def made_of(self, tensor: int) -> list[int]:
        """What is made by those that read it."""
        return self._readers.get(tensor, [])

    def up_to_weights(self, start: Sequence[int], step: Callable[[int], list[int]]) -> set[int]:
        """All tensors from `start` on, step by step, up to those of operators with weights."""
        waiting, found = list(start), set[int]()
        while waiting:
            tensor = waiting.pop()
            if tensor not in found and tensor in self.makers:
                found.add(tensor)
                waiting += [] if self.weighs(tensor) else step(tensor)
        return found
