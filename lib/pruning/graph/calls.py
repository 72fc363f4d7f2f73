"""The calls of a functional model's graph, producers first, with nested models taken apart."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import keras

from lib.errors import ModelError

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Call:
    """One use of a layer (or of a bare Keras operation).

    Attributes:
        layer: the layer; a layer that is called twice is in two calls.
        node: Keras' own record of the call, with its arguments.
        inputs: numbers of the tensors that go in, in the order of `node.input_tensors`.
        outputs: numbers of the tensors that come out.

    """

    layer: Any
    node: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class Calls:
    """All calls of a model. Tensors are numbers, because a nested model that is used twice has each of its own twice.

    Attributes:
        model: the functional model that was read.
        calls: producers before consumers; without input layers.
        inputs, outputs: tensor numbers of the model's inputs and outputs, in Keras' flat order.
        shapes: [B, ...] of each tensor, by number; None where the model leaves it open.

    Raises:
        ModelError: the model is no functional model, so it has no graph to read.

    """

    def __init__(self, model: keras.Model) -> None:
        self.model = _functional(model)
        if self.model is None:
            raise ModelError(f"{model.name} is no functional model; its channels cannot be followed")
        self.calls: list[Call] = []
        self.shapes: list[Shape] = []
        bound = {id(tensor): self._number(tensor) for tensor in self.model.inputs}
        self.inputs = tuple(bound.values())
        self.outputs = self._read(self.model, bound)

    def _number(self, tensor: Any) -> int:
        self.shapes.append(tuple(tensor.shape))
        return len(self.shapes) - 1

    def _read(self, model: Any, bound: dict[int, int]) -> tuple[int, ...]:
        for _, nodes in sorted(model._nodes_by_depth.items(), reverse=True):
            for node in nodes:
                if node.is_input:
                    continue
                inputs = tuple(bound[id(tensor)] for tensor in node.input_tensors)
                nested = _functional(node.operation)
                if nested is not None:
                    inner = {id(tensor): number for tensor, number in zip(nested.inputs, inputs, strict=True)}
                    outputs = self._read(nested, inner)
                else:
                    outputs = tuple(self._number(tensor) for tensor in node.output_tensors)
                    self.calls.append(Call(node.operation, node, inputs, outputs))
                bound.update({id(tensor): number for tensor, number in zip(node.output_tensors, outputs, strict=True)})
        return tuple(bound[id(tensor)] for tensor in keras.tree.flatten(model.outputs))

    def shapes_at(self, height_px: int, width_px: int) -> list[Shape]:
        """`shapes` for one image input of this size: every input [B, H, W, C] gets it, other inputs keep theirs."""
        tensors: dict[int, Any] = {}
        for number in self.inputs:
            shape = self.shapes[number]
            fixed = (1, height_px, width_px, shape[3]) if len(shape) == 4 else (1, *shape[1:])
            tensors[number] = keras.KerasTensor(fixed)
        for call in self.calls:
            given = {id(tensor): tensors[n] for tensor, n in zip(call.node.input_tensors, call.inputs, strict=True)}
            args, kwargs = call.node.arguments.fill_in(given)
            made = keras.tree.flatten(call.layer.compute_output_spec(*args, **kwargs))
            tensors.update(zip(call.outputs, made, strict=True))
        return [tuple(tensors[number].shape) for number in range(len(self.shapes))]


def plain_calls(model: keras.Model) -> Iterator[tuple[keras.layers.Layer, list[Any], Any]]:
    """(layer, its input tensors, its output tensor) for every call in the model's graph, producers first.

    The input layers are among the calls, and a nested model is one call: `Calls` takes it apart.
    """
    for _, nodes in sorted(model._nodes_by_depth.items(), reverse=True):
        for node in nodes:
            yield node.operation, node.input_tensors, node.output_tensors[0]


def readers(
    calls: Iterable[tuple[keras.layers.Layer, list[Any], Any]],
) -> dict[int, list[tuple[keras.layers.Layer, Any]]]:
    """By the id of a tensor, (layer, its output tensor) for each of the plain calls that read it."""
    found: dict[int, list[tuple[keras.layers.Layer, Any]]] = {}
    for layer, inputs, output in calls:
        for tensor in inputs:
            found.setdefault(id(tensor), []).append((layer, output))
    return found


def _functional(operation: Any) -> Any:
    """The functional model that an operation is, or a Sequential's; None for anything else."""
    if isinstance(operation, keras.Sequential):
        operation = getattr(operation, "_functional", None)
    return operation if isinstance(operation, keras.Model) and getattr(operation, "_nodes_by_depth", None) else None
