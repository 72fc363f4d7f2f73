"""The channel graph: which channels of which layers are one and the same, and which of them must stay.

Every channel that a layer makes gets a number. Layers that pass channels on keep the numbers, whatever the order in
which concatenation puts them; additions and products tie numbers to each other. Channels tied together, directly or
over others, are one class: they can only be removed together.
"""

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lib.errors import ConfigError, ModelError
from lib.pruning.graph.calls import Call, Calls
from lib.pruning.graph.kinds import MIXERS, SUPPORTED, Kind, keeps_zero, kind_of

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Step:
    """A call and what it does to channels."""

    call: Call
    kind: Kind

    @property
    def layer(self) -> Any:
        return self.call.layer


@dataclass(frozen=True)
class Ports:
    """A layer's ends: the numbers of the channels that its weights' axes run over (those of its first call).

    Attributes:
        inward: None for a layer of several inputs.

    """

    layer: Any
    kind: Kind
    inward: IntArray | None
    outward: IntArray


@dataclass
class _Numbers:
    """Channel numbers given out so far, the ties between them, and those that must stay, with the reason."""

    count: int = 0
    ties: list[tuple[IntArray, IntArray]] = field(default_factory=list)
    fixed: list[tuple[IntArray, str]] = field(default_factory=list)

    def new(self, channels: int) -> IntArray:
        self.count += channels
        return np.arange(self.count - channels, self.count)

    def tie(self, a: IntArray, b: IntArray) -> None:
        self.ties.append(np.broadcast_arrays(a, b))  # type: ignore[arg-type]


class ChannelGraph:
    """The channels of a functional model.

    Args:
        model: any functional model, nested ones included.
        protected: patterns of layer names; the channels that these layers read or make stay. A layer of an unsupported
            kind is let through if it is protected.

    Attributes:
        calls: the model's calls.
        steps: the same, with what they do to channels.
        channels: for each tensor number the channel numbers of its last axis, in order.
        ports: id of a layer -> its ends, in the order of first calls.
        class_of: for each channel number its class.
        classes: how many classes there are.
        reasons: class -> why it must stay; classes that are absent here may go.
        feeds_output: by class, whether it reaches an output.
        guarded: ids of the layers that `protected` names.

    Raises:
        ModelError: a layer's channels cannot be followed; it is named.
        ConfigError: a pattern of `protected` fits no layer.

    """

    def __init__(self, model: keras.Model, protected: tuple[str, ...] = ()) -> None:
        self.calls = Calls(model)
        self.steps = [Step(call, kind_of(call, self.calls.shapes)) for call in self.calls.calls]
        self.guarded = self._guarded(protected)
        self.channels: dict[int, IntArray] = {}
        self.ports: dict[int, Ports] = {}
        self._numbers = _Numbers()
        self._noisy: dict[int, BoolArray] = {}  # where a channel that is masked is a constant other than zero
        harmless = self._behind_heads() | self._before_makers()
        for number in self.calls.inputs:
            self._source(number, "comes from the input")
        for position, step in enumerate(self.steps):
            followed = step.kind != "opaque" or isinstance(step.layer, MIXERS)
            if not followed and id(step.layer) not in self.guarded and position not in harmless:
                raise ModelError(
                    f"{step.layer.name} ({type(step.layer).__name__}, call {position + 1} of {len(self.steps)}, behind "
                    f"{self._before(position)}): its channels cannot be followed; supported are {SUPPORTED}. To leave "
                    f"alone what touches it, add {step.layer.name!r} to `protected`"
                )
            self._follow(step)
        for number in self.calls.outputs:
            self._numbers.fixed.append((self.channels[number], "reaches the output"))
        ties = self._numbers.ties or [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
        a, b = (np.concatenate([np.ravel(tie[side]) for tie in ties]) for side in (0, 1))
        count = self._numbers.count
        links = coo_array((np.ones(len(a), bool), (a, b)), shape=(count, count))
        self.classes, labels = connected_components(links, directed=False)
        self.class_of: IntArray = labels.astype(np.int64)
        self.feeds_output: BoolArray = np.zeros(self.classes, bool)
        for number in self.calls.outputs:
            self.feeds_output[self.class_of[self.channels[number]]] = True
        self.reasons: dict[int, str] = {}
        for numbers, reason in self._numbers.fixed:
            for item in self.class_of[numbers].tolist():
                self.reasons.setdefault(item, reason)

    def _guarded(self, protected: tuple[str, ...]) -> set[int]:
        found = set()
        for pattern in protected:
            hits = {id(step.layer) for step in self.steps if fnmatchcase(step.layer.name, pattern)}
            if not hits:
                raise ConfigError(f"protected: no layer is called {pattern!r}")
            found |= hits
        return found

    def _behind_heads(self) -> set[int]:
        """Positions of calls that no layer with weights follows: what they do to channels does not matter."""
        seen_by_makers: set[int] = set()
        found = set()
        for position, step in reversed(list(enumerate(self.steps))):
            outputs = set(step.call.outputs)
            if step.kind in ("make", "depthwise", "norm") or outputs & seen_by_makers:
                seen_by_makers.update(step.call.inputs)
            else:
                found.add(position)
        return found

    def _before_makers(self) -> set[int]:
        """Positions of calls that no layer with weights precedes: the input's channels are not removed anyway."""
        plain = set(self.calls.inputs)
        found = set()
        for position, step in enumerate(self.steps):
            if step.kind not in ("make", "depthwise", "norm") and plain.issuperset(step.call.inputs):
                plain.update(step.call.outputs)
                found.add(position)
        return found

    def _before(self, position: int) -> str:
        inputs = set(self.steps[position].call.inputs)
        names = [step.layer.name for step in self.steps[:position] if inputs & set(step.call.outputs)]
        return ", ".join(names) or "the input"

    def _source(self, number: int, reason: str) -> None:
        channels = self.calls.shapes[number][-1] if self.calls.shapes[number][1:] else 1
        self.channels[number] = self._numbers.new(channels or 1)
        self._noisy[number] = np.zeros(channels or 1, bool)
        self._numbers.fixed.append((self.channels[number], reason))

    def _follow(self, step: Step) -> None:
        """Numbers the channels of a step's output, from those of its inputs."""
        layer, call = step.layer, step.call
        ins = [self.channels[number] for number in call.inputs]
        noises = [self._noisy[number] for number in call.inputs]
        if id(layer) in self.guarded or step.kind == "opaque":
            self._fix(ins, f"{layer.name} is protected" if id(layer) in self.guarded else f"{layer.name} reads it")
        if step.kind == "opaque":
            for number in call.outputs:
                self._source(number, f"{layer.name} makes it")
            return
        known = self.ports.get(id(layer))
        if known is not None and known.inward is not None:
            self._numbers.tie(known.inward, ins[0])
        match step.kind:
            case "make" | "depthwise":
                out, noise = self._made(step, ins[0], noises[0], known)
            case "norm":
                # gamma makes up for a masked channel that is not zero; a moving mean of zero does not.
                out, noise = ins[0], noises[0] & (not layer.scale)
            case "pass":
                out, noise = ins[0], noises[0] | (not keeps_zero(layer))
            case "l2norm":
                self._must_be_zero(layer, ins[0], noises[0])
                out, noise = ins[0], noises[0]
            case "sum" | "product":
                out = self._numbers.new(len(ins[0]))
                for operand in ins:
                    self._numbers.tie(out, operand)
                noise = np.any(noises, axis=0) if step.kind == "sum" else np.all(noises, axis=0)
            case "join":
                out, noise = np.concatenate(ins), np.concatenate(noises)
            case _:
                positions = self.calls.shapes[call.outputs[0]][-1] // len(ins[0])  # type: ignore[operator]
                out, noise = np.tile(ins[0], positions), np.tile(noises[0], positions)
        if id(layer) in self.guarded:
            self._fix([out], f"{layer.name} is protected")
        self.channels[call.outputs[0]], self._noisy[call.outputs[0]] = out, noise
        self.ports.setdefault(id(layer), Ports(layer, step.kind, ins[0] if len(ins) == 1 else None, out))

    def _made(self, step: Step, ins: IntArray, noise: BoolArray, known: Ports | None) -> tuple[IntArray, BoolArray]:
        layer = step.layer
        channels = self.calls.shapes[step.call.outputs[0]][-1] or 0
        out = known.outward if known else self._numbers.new(channels)
        if step.kind == "depthwise":
            self._numbers.tie(ins[:, None], out.reshape(len(ins), -1))
        else:
            self._must_be_zero(layer, ins, noise)
        if (groups := getattr(layer, "groups", 1)) > 1:
            # What goes from one group goes from all, so that they stay of one size.
            for ends in (ins.reshape(groups, -1), out.reshape(groups, -1)):
                self._numbers.tie(ends[:1], ends)
        return out, np.full(channels, not keeps_zero(layer))

    def _must_be_zero(self, layer: Any, channels: IntArray, noise: BoolArray) -> None:
        """What a layer reads as a constant that is not zero cannot be taken out exactly: it must stay."""
        if noise.any():
            self._fix([channels[noise]], f"{layer.name} reads it as a constant that is not zero when it is masked")

    def _fix(self, channels: list[IntArray], reason: str) -> None:
        self._numbers.fixed += [(numbers, reason) for numbers in channels]
