"""Which channels of a model can only go together, read off the model's own graph.

Every convolution makes channels; additions tie the channels of their operands, concatenations only move them,
everything else here passes them on. Channels that reach the model's outputs (the heads') or come from its inputs are
protected and in no set.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import keras
from keras import layers

from lib.errors import ModelError
from lib.models.layers import ConcatenateAnchors, MaxoutBackground, WeightedFusion

Mode = Literal["removable", "per_layer"]

_PASSING = (
    layers.ReLU,
    layers.Activation,
    layers.ZeroPadding2D,
    layers.UpSampling2D,
    layers.MaxPooling2D,
    layers.AveragePooling2D,
    layers.Dropout,
)
_TYING = (layers.Add, WeightedFusion)
# Behind the heads: what they do to channels does not matter, because heads are protected.
_OUTPUT_ONLY = (layers.Reshape, layers.Concatenate, layers.Softmax, MaxoutBackground, ConcatenateAnchors)


@dataclass(frozen=True)
class ChannelSet:
    """Channels that can only be removed together, channel j of every member at once.

    Attributes:
        name: the first convolution that makes them.
        size: how many channels.
        convolutions: layers whose filters they are.
        norms: batch normalisations of exactly these channels.

    """

    name: str
    size: int
    convolutions: tuple[str, ...]
    norms: tuple[str, ...]


class _Sets:
    """Union-find over the channel ranges that layers make."""

    def __init__(self) -> None:
        self.parent: list[int] = []
        self.sizes: list[int] = []

    def add(self, size: int) -> int:
        self.parent.append(len(self.parent))
        self.sizes.append(size)
        return len(self.parent) - 1

    def find(self, item: int) -> int:
        while self.parent[item] != item:
            item = self.parent[item]
        return item

    def union(self, a: int, b: int) -> None:
        a, b = sorted((self.find(a), self.find(b)))
        self.parent[b] = a


def channel_sets(model: keras.Model, mode: Mode = "removable") -> list[ChannelSet]:
    """The prunable channels of a functional model, in the order in which the model makes them.

    Args:
        model: functional model of convolutions, batch normalisations, activations, padding, pooling, upsampling,
            additions, EResFD's fusions and channel concatenations; anything may follow the output convolutions.
        mode: "removable": tied channels form one set, so that whatever is zeroed can be taken out. "per_layer": every
            convolution by itself, as published with B-FPGM; what is zeroed may then have to stay.

    Raises:
        ModelError: the model has a layer whose channels cannot be followed; it is named.

    """
    sets = _Sets()
    ranges: dict[int, tuple[int, ...]] = {}  # id of a tensor -> the sets that its channels are, in order
    makers: list[tuple[str, int]] = []
    norms: list[tuple[str, int]] = []
    unknown: dict[int, str] = {}  # tensors that only outputs may use -> the layer that made them

    for layer, inputs, output in _calls(model):
        blocked = [unknown[id(tensor)] for tensor in inputs if id(tensor) in unknown]
        if blocked and not isinstance(layer, _OUTPUT_ONLY):
            raise ModelError(f"{layer.name} follows {blocked[0]}, and channels cannot be followed through that")
        known = [ranges[id(tensor)] for tensor in inputs if id(tensor) in ranges]
        if isinstance(layer, (layers.InputLayer, layers.Rescaling)):
            ranges[id(output)] = known[0] if known else (sets.add(output.shape[-1]),)
        elif isinstance(layer, layers.Conv2D) and type(layer) is layers.Conv2D and layer.groups == 1:
            made = sets.add(layer.filters)
            makers.append((layer.name, made))
            ranges[id(output)] = (made,)
        elif isinstance(layer, layers.BatchNormalization) and len(known[0]) == 1:
            norms.append((layer.name, known[0][0]))
            ranges[id(output)] = known[0]
        elif isinstance(layer, _PASSING):
            ranges[id(output)] = known[0]
        elif isinstance(layer, _TYING):
            _tie(layer.name, known, sets)
            ranges[id(output)] = known[0]
        elif isinstance(layer, layers.Concatenate) and not blocked and layer.axis in (-1, len(output.shape) - 1):
            ranges[id(output)] = tuple(part for operand in known for part in operand)
        elif isinstance(layer, _OUTPUT_ONLY):
            unknown[id(output)] = layer.name
            for part in (part for operand in known for part in operand):
                ranges.setdefault(id(output), ())
                ranges[id(output)] += (part,)
        else:
            raise ModelError(
                f"{layer.name} ({type(layer).__name__}): its channels cannot be followed; supported are Conv2D, "
                "BatchNormalization, activations, padding, pooling, upsampling, Add, Concatenate and WeightedFusion"
            )

    inputs_and_outputs = [*model.inputs, *keras.tree.flatten(model.outputs)]
    protected = {sets.find(part) for tensor in inputs_and_outputs for part in ranges[id(tensor)]}
    tied: dict[int, list[str]] = {}
    for name, made in makers:
        tied.setdefault(sets.find(made), []).append(name)
    found = []
    for root, names in tied.items():
        if root in protected:
            continue
        set_norms = [(name, part) for name, part in norms if sets.find(part) == root]
        if mode == "removable":
            found.append(ChannelSet(names[0], sets.sizes[root], tuple(names), tuple(name for name, _ in set_norms)))
            continue
        for name in names:
            own = next(part for maker, part in makers if maker == name)
            direct = tuple(norm for norm, part in set_norms if part == own)
            found.append(ChannelSet(name, sets.sizes[root], (name,), direct))
    return found


def _tie(name: str, operands: list[tuple[int, ...]], sets: _Sets) -> None:
    first = operands[0]
    for other in operands[1:]:
        if [sets.sizes[part] for part in first] != [sets.sizes[part] for part in other]:
            raise ModelError(f"{name} adds maps that are concatenated differently; their channels cannot be tied")
        for a, b in zip(first, other, strict=True):
            sets.union(a, b)


def _calls(model: keras.Model) -> Iterator[tuple[keras.layers.Layer, list[Any], Any]]:
    """(layer, its input tensors, its output tensor) for every call in the model's graph, producers first."""
    if not getattr(model, "_nodes_by_depth", None):
        raise ModelError(f"{model.name} is no functional model; its channels cannot be followed")
    for _, nodes in sorted(model._nodes_by_depth.items(), reverse=True):
        for node in nodes:
            yield node.operation, node.input_tensors, node.output_tensors[0]
