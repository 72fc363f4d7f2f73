"""Where channels go: every channel that a layer makes has a number, which it keeps through what passes it on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers

from lib.arrays import BoolArray, IntArray
from lib.pruning.graph.calls import Call, Calls
from lib.pruning.graph.kinds import CLOSED, MAKERS, WEIGHTED, Kind, Reading, kind_of
from lib.pruning.graph.moves import Moved, moved, narrowed, same_move
from lib.pruning.graph.operations import reading_of


@dataclass(frozen=True, kw_only=True)
class Step(Reading):
    """A call and what it does to channels.

    Attributes:
        index: of a "move", for each output [rows, channels], see `lib.pruning.graph.moves.Moved`.

    """

    call: Call
    index: tuple[IntArray, ...] = ()

    @property
    def layer(self) -> Any:
        return self.call.layer

    @property
    def source(self) -> int:
        """The tensor that the channels come from."""
        return self.call.inputs[self.main]

    @property
    def beside(self) -> list[int]:
        """Tensors of one value for all channels, which a call spreads over those of another tensor."""
        return [number for number in self.call.inputs if number != self.source] if self.kind == "pass" else []


@dataclass(frozen=True)
class Ports:
    """A layer's ends: the numbers of the channels that its weights' axes run over (those of its first call).

    Attributes:
        inward: None for a layer of several inputs; of attention both ends are its heads.

    """

    layer: Any
    kind: Kind
    inward: IntArray | None
    outward: IntArray


class Flow:
    """The channels of all tensors of a model.

    Attributes:
        calls: the model's calls.
        steps: the same, with what they do to channels.
        channels: for each tensor number the numbers of its channels, in order.
        axes: for each tensor number the axis of its channels.
        ports: id of a layer -> its ends, in the order of first calls.
        ties: pairs of arrays of channels that can only go together.
        count: how many numbers there are.

    """

    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self.steps: list[Step] = []
        self.channels: dict[int, IntArray] = {}
        self.axes: dict[int, int] = {}
        self.ports: dict[int, Ports] = {}
        self.ties: list[tuple[IntArray, IntArray]] = []
        self.count = 0
        for number in calls.inputs:
            self._source(number)
        for call in calls.calls:
            self.steps.append(self._step(call))

    def size(self, number: int) -> int:
        """How many channels a tensor has."""
        return len(self.channels[number])

    def _new(self, channels: int) -> IntArray:
        self.count += channels
        return np.arange(self.count - channels, self.count)

    def _source(self, number: int) -> None:
        shape = self.calls.shapes[number]
        self.channels[number] = self._new((shape[-1] if shape[1:] else 1) or 1)
        self.axes[number] = max(len(shape) - 1, 0)

    def _tie(self, a: IntArray, b: IntArray) -> None:
        if a.size and b.size:
            one, other = np.broadcast_arrays(a, b)
            self.ties.append((one, other))

    def _step(self, call: Call) -> Step:
        own = isinstance(call.layer, keras.Layer)
        found: Reading = (kind_of if own else reading_of)(call, self.calls.shapes, self.axes)
        index: tuple[IntArray, ...] = ()
        if found.kind == "move":
            places = self._moved(call)
            found = found if places else Reading("opaque")
            index = tuple(one.index for one in places)
        step = Step(**vars(found), call=call, index=index)
        if step.kind in CLOSED:
            for number in call.outputs:
                self._source(number)
            if step.kind == "heads" and id(call.layer) not in self.ports:
                heads = self._new(call.layer.num_heads)
                self.ports[id(call.layer)] = Ports(call.layer, "make", heads, heads)
        else:
            out = call.outputs[0]
            if step.kind != "move":
                self.channels[out] = self._behind(step)
                rank, source = len(self.calls.shapes[out]), step.source
                same_end = rank - len(self.calls.shapes[source]) + self.axes[source]
                self.axes[out] = rank - 1 if step.kind in MAKERS else same_end if step.axis is None else step.axis
            one = len(call.inputs) == 1 or step.kind in WEIGHTED
            inward = self.channels[call.inputs[0]] if one else None
            self.ports.setdefault(id(call.layer), Ports(call.layer, step.kind, inward, self.channels[out]))
        return step

    def _behind(self, step: Step) -> IntArray:
        layer, ins = step.layer, [self.channels[number] for number in step.call.inputs]
        known = self.ports.get(id(layer))
        if known is not None and known.inward is not None:
            self._tie(known.inward, ins[0])
        match step.kind:
            case "make" | "depthwise":
                return self._made(step, ins[0], known)
            case "sum" | "product":
                out = self._new(len(ins[0]))
                for operand in ins:
                    self._tie(out, operand)
                return out
            case "join":
                return np.concatenate(ins)
        if type(layer) is layers.GroupNormalization:
            groups = len(ins[0]) if layer.groups == -1 else layer.groups
            whole = ins[0].reshape(groups, -1)  # a group goes whole, so that the others' mean and variance stay
            self._tie(whole[:, :1], whole)
        return ins[step.main]

    def _made(self, step: Step, ins: IntArray, known: Ports | None) -> IntArray:
        channels = self.calls.shapes[step.call.outputs[0]][-1] or 0
        out = known.outward if known else self._new(channels)
        if step.kind == "depthwise":
            self._tie(ins[:, None], out.reshape(len(ins), -1))
        elif (groups := getattr(step.layer, "groups", 1)) > 1:
            # What goes from one group goes from all, so that they stay of one size.
            for ends in (ins.reshape(groups, -1), out.reshape(groups, -1)):
                self._tie(ends[:1], ends)
        return out

    def _moved(self, call: Call) -> list[Moved]:
        numbers = np.concatenate([self.channels[number] for number in dict.fromkeys(call.inputs)])
        known = self.ports.get(id(call.layer))
        if known is not None and known.inward is not None and len(known.inward) == len(numbers):
            self._tie(known.inward, numbers)
        places = moved(call, self.calls.shapes, self.axes, numbers)
        for number, one in zip(call.outputs, places or [], strict=False):
            ids = numbers[one.index]
            self._tie(ids[:1], ids)
            self.channels[number], self.axes[number] = ids[0], one.axis
        return places or []

    def for_fewer(
        self, step: Step, kept: Mapping[int, BoolArray]
    ) -> tuple[dict[str, Any], tuple[tuple[Any, ...], dict[str, Any]] | None]:
        """How a call that passes channels on is put when only `kept` stay.

        Args:
            kept: by tensor number, of the call's inputs and outputs.

        Returns:
            what changes in the layer's configuration, and the arguments in place of the call's; None: the same.

        """
        shapes, number = self.calls.shapes, step.call.outputs[0]
        if step.kind == "move" or type(step.layer).__name__ in ("Reshape", "BroadcastTo"):
            return narrowed(step.call, shapes, self.axes, kept, step.index)
        if isinstance(step.layer, keras.Layer) or step.kind != "pass" or kept[number].all():
            return {}, None
        end, size = self.axes[number] - len(shapes[number]), self.size(number)

        def constant(value: Any) -> Any:
            shape = getattr(value, "shape", ())
            if isinstance(value, keras.KerasTensor) or len(shape) < -end or shape[end] != size or size == 1:
                return value
            return np.compress(kept[number], keras.ops.convert_to_numpy(value), end)

        arguments = step.call.node.arguments
        return {}, keras.tree.map_structure(constant, (tuple(arguments.args), dict(arguments.kwargs)))

    def is_same(self, step: Step, changed: Any, kept: Mapping[int, BoolArray]) -> bool:
        """Whether a narrower move (layer, arguments) takes the kept channels where the whole one takes them."""
        return same_move(step.call, changed, self.calls.shapes, self.axes, kept, step.index)
