"""The calls of a functional model's graph, producers first, with nested models taken apart."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from lib.errors import ModelError

Shape = tuple[int | None, ...]
_NO_RULE = keras.Layer.compute_output_shape  # of a layer without one for the shape behind it


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

    def arguments(self, tensors: Mapping[int, Any], instead: Any = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call's arguments with these tensors, by number, in the place of those of the model.

        Args:
            instead: (args, kwargs) in place of the call's own, with the model's tensors in them.

        """
        pairs = zip(self.node.input_tensors, self.inputs, strict=True)
        given = {id(tensor): tensors.get(number) for tensor, number in pairs}
        if instead is None:
            args, kwargs = self.node.arguments.fill_in(given)
        else:
            args, kwargs = keras.tree.map_structure(lambda value: given.get(id(value), value), instead)
        return tuple(args), kwargs


class Calls:
    """All calls of a model. Tensors are numbers, because a nested model that is used twice has each of its own twice.

    Attributes:
        model: the functional model that was read.
        name, kind: of the model that was given, which may be a Sequential: a functional copy is made by `kind`.
        calls: producers before consumers; without input layers.
        inputs, outputs: tensor numbers of the model's inputs and outputs, in Keras' flat order.
        shapes: [B, ...] of each tensor, by number; None where the model leaves it open.
        names: id of each layer -> its name; of a nested model's namesake "conv#2".
        readers: by tensor number, the positions in `calls` of those that read it, each once; [] for a tensor that only
            leaves the model.

    Raises:
        ModelError: the model is no functional model, so it has no graph to read.

    """

    def __init__(self, model: keras.Model) -> None:
        self.name = model.name
        self.kind = keras.Model if isinstance(model, keras.Sequential) else type(model)
        self.model = _functional(model)
        if self.model is None:
            raise ModelError(f"{model.name} is no functional model; its channels cannot be followed")
        self.calls: list[Call] = []
        self.shapes: list[Shape] = []
        bound = {id(tensor): self._number(tensor) for tensor in self.model.inputs}
        self.inputs = tuple(bound.values())
        self.outputs = self._read(self.model, bound)
        self.names: dict[int, str] = {}
        namesakes: dict[str, int] = {}
        for layer in {id(call.layer): call.layer for call in self.calls}.values():
            count = namesakes[layer.name] = namesakes.get(layer.name, 0) + 1
            self.names[id(layer)] = layer.name if count == 1 else f"{layer.name}#{count}"
        self.readers: list[list[int]] = [[] for _ in self.shapes]
        for position, call in enumerate(self.calls):
            for number in dict.fromkeys(call.inputs):
                self.readers[number].append(position)

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

    def follow(
        self, start: Mapping[int, Any], behind: Callable[[Call, dict[int, Any]], Sequence[Any]]
    ) -> Iterator[tuple[int, Any]]:
        """Carries something of every tensor through the model; yields (tensor number, what is carried), `start` first.

        What nothing reads any more is let go, so that of a large network not all is held at once.

        Args:
            start: of the model's inputs.
            behind: (call, by number what its inputs carry) -> what its outputs carry.

        """
        last_use = {number: readers[-1] for number, readers in enumerate(self.readers) if readers}
        carried = dict(start)
        yield from start.items()
        for position, call in enumerate(self.calls):
            made = dict(zip(call.outputs, behind(call, carried), strict=True))
            yield from made.items()
            carried.update((number, value) for number, value in made.items() if number in last_use)
            for number in dict.fromkeys(call.inputs):
                if last_use[number] == position:
                    del carried[number]

    def shapes_at(self, height_px: int, width_px: int) -> list[Shape]:
        """`shapes` for one image of this size: open heights and widths of inputs [B, H, W, C] get it, others stay."""
        start: dict[int, Any] = {}
        for number in self.inputs:
            shape = self.shapes[number]
            start[number] = (1, *shape[1:])
            if len(shape) == 4:
                start[number] = (1, shape[1] or height_px, shape[2] or width_px, shape[3])
        found = dict(self.follow(start, _shapes_behind))
        return [tuple(found[number]) for number in range(len(self.shapes))]


def _shapes_behind(call: Call, given: dict[int, Shape]) -> list[Shape]:
    args, kwargs = call.arguments(given)
    others = any(value is not None for value in kwargs.values())
    own = isinstance(call.layer, keras.Layer) and type(call.layer).compute_output_shape is not _NO_RULE
    if own and len(args) == len(call.outputs) == 1 and not others:
        shape = call.layer.compute_output_shape(args[0])  # in a tenth of the time of what follows
        if all(size is None or isinstance(size, int) for size in shape):
            return [tuple(shape)]
    pairs = zip(call.inputs, call.node.input_tensors, strict=True)
    args, kwargs = call.arguments({n: keras.KerasTensor(given[n], tensor.dtype) for n, tensor in pairs})
    return [tensor.shape for tensor in keras.tree.flatten(call.layer.compute_output_spec(*args, **kwargs))]


def layers_of(model: keras.Model) -> list[keras.Layer]:
    """A model's layers in the order of its summary, those of nested models in the models' place."""
    found: list[keras.Layer] = []
    for layer in model.layers:
        found += layers_of(layer) if isinstance(layer, keras.Model) else [layer]
    return found


def _functional(operation: Any) -> Any:
    """The functional model that an operation is, or a Sequential's; None for anything else."""
    if isinstance(operation, keras.Sequential):
        operation = getattr(operation, "_functional", None)
    return operation if isinstance(operation, keras.Model) and getattr(operation, "_nodes_by_depth", None) else None
