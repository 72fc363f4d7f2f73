"""Removal: a smaller model that computes what the masked one computes."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import layers

from lib.arrays import BoolArray, FloatArray
from lib.errors import ModelError
from lib.pruning.graph.calls import Call
from lib.pruning.graph.channels import ChannelGraph
from lib.pruning.graph.copies import copied, give_weights, rebuilt
from lib.pruning.graph.flow import Step
from lib.pruning.graph.weights import rescaled, resized, weight_axes
from lib.pruning.masks import Masks, resolve


def shrink(model: keras.Model, masks: Masks) -> keras.Model:
    """A copy of a functional model without the masked channels: the same function as after `apply_masks`.

    It is an ordinary functional model, not compiled, with the same inputs, outputs and layer names. Where a set is
    emptied, what only it fed is gone too; an addition or concatenation with one operand left is gone itself, and a
    sum whose operands have factors becomes a Rescaling. Nested models are taken apart.

    Args:
        model: masked or not; masked channels' weights are not looked at.
        masks: of mode "removable". For masks by layer see `lib.pruning.zeros.removable_part`.

    Raises:
        ModelError: these are masks of another model or mode, or two layers of nested models have one name.
        ConfigError: the model cannot work without these channels.

    """
    if masks.mode != "removable":
        raise ModelError(
            f"masks of mode {masks.mode!r} cannot be removed as they are: tied channels must go together; "
            "removable_part() says which of them can"
        )
    return _Rebuild(model, masks).model()


def take_over(model: keras.Model, small: keras.Model, masks: Masks) -> None:
    """Gives a whole model the weights of its smaller one, in place; with the masks applied it computes the same again.

    So what was learnt without the masked channels (by a repair, say) goes on where a compiled step has them still.

    Args:
        model: the whole model; what its masked channels say, and what is read of them, stays.
        small: `shrink(model, masks)`, with other weights by now.
        masks: what is not in it.

    Raises:
        ModelError: the models do not belong together.

    """
    _Rebuild(model, masks).give_back(small)


def largest_difference(a: keras.Model, b: keras.Model, inputs: Any) -> float:
    """The largest absolute difference of any output value of two models on the same batch of inputs."""
    outputs = [keras.tree.flatten(one(inputs, training=False)) for one in (a, b)]
    pairs = [
        [keras.ops.convert_to_numpy(one).astype(np.float64) for one in pair] for pair in zip(*outputs, strict=True)
    ]
    return max(float(np.abs(x - y).max(initial=0.0)) for x, y in pairs)


class _Rebuild:
    """One pass through the graph that calls narrower copies of the layers on new tensors."""

    def __init__(self, model: keras.Model, masks: Masks) -> None:
        self.graph = ChannelGraph(model, masks.protected)
        _, silenced = resolve(self.graph, masks)
        assert silenced is not None, "masks of this mode are followed through the graph"
        self.silenced = silenced
        self.copies: dict[int, Any] = {}  # id of a layer -> its narrower copy

    def model(self) -> keras.Model:
        self._check_names()
        small = rebuilt(self.graph.calls, self._call)
        self._copy_weights()
        return small

    def _check_names(self) -> None:
        names = Counter(layer.name for layer in {id(step.layer): step.layer for step in self.graph.steps}.values())
        double = [name for name, count in names.items() if count > 1]
        if double:
            raise ModelError(
                f"{', '.join(double)}: several layers of this model and the models nested in it have that name; "
                "removal makes one flat model, so rename them"
            )

    def _call(self, position: int, call: Call, tensors: dict[int, Any]) -> Any:
        if position in self.silenced.dead:
            return None
        step = self.graph.steps[position]
        left = [number for number in call.inputs if number in tensors]
        if step.kind in ("sum", "join") and len(left) < len(call.inputs):
            operands = [tensors[number] for number in left]
            if position in self.silenced.scaled:
                factor = step.layer.operand_weights()[call.inputs.index(left[0])]
                return layers.Rescaling(factor, name=step.layer.name)(operands[0])
            return operands[0] if len(operands) == 1 else self._copy(step)(operands)
        kept = {number: self._kept(self.graph.channels[number]) for number in (*call.inputs, *call.outputs)}
        changes, arguments = self.graph.flow.for_fewer(step, kept)
        copy = self._copy(step, changes)
        if step.kind == "move" and not self.graph.flow.is_same(step, (copy, arguments), kept):
            raise ModelError(
                f"{step.layer.name} ({type(step.layer).__name__}) cannot be put for fewer channels; protect it"
            )
        args, kwargs = call.arguments(tensors, arguments)
        made = copy(*args, **kwargs)
        if step.kind != "move":
            return made
        return [one if kept[n].any() else None for n, one in zip(call.outputs, keras.tree.flatten(made), strict=True)]

    def _kept(self, numbers: Any) -> BoolArray:
        return self.silenced.alive[self.graph.class_of[numbers]]

    def _copy(self, step: Step, changes: dict[str, Any] | None = None) -> Any:
        layer = step.layer
        if id(layer) not in self.copies:
            heads = step.kind == "heads"
            kept = self._kept(
                self.graph.ports[id(layer)].outward if heads else self.graph.channels[step.call.outputs[0]]
            )
            kind = "make" if heads else step.kind
            sizes = {} if kind == "move" else resized(layer, kind, len(kept), int(kept.sum()))
            self.copies[id(layer)] = copied(layer, **{**sizes, **(changes or {})})
        return self.copies[id(layer)]

    def give_back(self, small: keras.Model) -> None:
        copies = {layer.name: layer for layer in small.layers}
        for layer in {id(step.layer): step.layer for step in self.graph.steps}.values():
            copy: Any = copies.get(layer.name)
            if not getattr(layer, "weights", None) or type(copy) is not type(layer):  # gone, or a sum of one operand
                continue
            described, factor = self._described(layer)
            values = [
                _widened(weight, axes, np.asarray(own) / factor)
                for (weight, axes), own in zip(described, copy.weights, strict=True)
            ]
            give_weights(layer, values)

    def _copy_weights(self) -> None:
        originals = {id(step.layer): step.layer for step in self.graph.steps}
        for number, copy in self.copies.items():
            if getattr(originals[number], "weights", None):
                described, factor = self._described(originals[number])
                give_weights(copy, [_narrowed(weight, axes) * factor for weight, axes in described])

    def _described(self, layer: Any) -> tuple[list[tuple[Any, dict[int, BoolArray]]], float]:
        """A layer's weights, each with the channels that its axes keep, and the factor of the narrower ones."""
        port = self.graph.ports.get(id(layer))
        if port is None:
            return [(weight, {}) for weight in layer.weights], 1.0
        inward = port.outward if port.inward is None else port.inward
        kept = self._kept(port.outward)
        return weight_axes(layer, self._kept(inward), kept), rescaled(layer, len(kept), int(kept.sum()))


def _narrowed(weight: Any, axes: Mapping[int, BoolArray]) -> FloatArray:
    """The weight's values, of each axis the channels that are kept."""
    values = np.asarray(weight)
    for axis, kept in axes.items():
        values = np.compress(kept, values, axis)
    return values


def _widened(weight: Any, axes: Mapping[int, BoolArray], values: FloatArray) -> FloatArray:
    """The weight's values, those of the kept channels replaced."""
    whole = np.array(weight)
    kept = [axes.get(axis, np.ones(size, bool)) for axis, size in enumerate(whole.shape)]
    part = whole[np.ix_(*kept)] if kept else whole
    if part.shape != values.shape:
        raise ModelError(f"{weight.path}: {values.shape} in the smaller model, expected {part.shape}")
    whole[np.ix_(*kept) if kept else ...] = values
    return whole
