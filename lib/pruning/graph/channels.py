"""The channel graph: which channels of which layers are one and the same, and which of them must stay.

Every channel that a layer makes has a number (`lib.pruning.graph.flow`); additions and products tie numbers to each
other. Channels tied together, directly or over others, are one class: they can only be removed together.
"""

from fnmatch import fnmatchcase
from typing import Any

import keras
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lib.arrays import BoolArray, IntArray
from lib.errors import ConfigError, ModelError
from lib.pruning.graph.calls import Calls
from lib.pruning.graph.flow import Flow, Step
from lib.pruning.graph.kinds import CLOSED, SUPPORTED, WEIGHTED


def is_named(name: str, pattern: str) -> bool:
    """Whether a pattern stands for this name; a name stands for itself, whatever is in it."""
    return name == pattern or fnmatchcase(name, pattern)


class ChannelGraph:
    """The channels of a functional model.

    Args:
        model: any functional model, nested ones included.
        protected: patterns of layer names; the channels that these layers read or make stay. A layer that cannot be
            followed is let through if it is protected.

    Attributes:
        calls: the model's calls.
        flow: where the channels go.
        steps, channels, axes, ports: those of `flow`.
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
        self.flow = Flow(self.calls)
        self.steps, self.channels = self.flow.steps, self.flow.channels
        self.axes, self.ports = self.flow.axes, self.flow.ports
        self.guarded = self._guarded(protected)
        self._fixed: list[tuple[IntArray, str]] = []
        self._noisy: dict[int, BoolArray] = {}  # where a channel that is masked is not zero
        harmless = self._behind_heads() | self._before_makers()
        for number in self.calls.inputs:
            self._source(number, "comes from the input")
        for position, step in enumerate(self.steps):
            if step.refused and id(step.layer) not in self.guarded and position not in harmless:
                raise ModelError(
                    f"{step.layer.name} ({type(step.layer).__name__}, call {position + 1} of {len(self.steps)}, behind "
                    f"{self._before(position)}): its channels cannot be followed; supported are {SUPPORTED}. To leave "
                    f"alone what touches it, add {step.layer.name!r} to `protected`"
                )
            self._judge(step)
        for step in self.steps:  # followed in one of its calls and not in another
            port = self.ports.get(id(step.layer))
            if step.kind == "opaque" and port is not None and getattr(step.layer, "weights", None):
                ends = [port.outward] if port.inward is None else [port.inward, port.outward]
                self._fix(ends, f"{step.layer.name} is used in several places, and cannot be followed in one of them")
        for number in self.calls.outputs:
            self._fixed.append((self.channels[number], "reaches the output"))
        ties = self.flow.ties or [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
        a, b = (np.concatenate([np.ravel(tie[side]) for tie in ties]) for side in (0, 1))
        count = self.flow.count
        links = coo_array((np.ones(len(a), bool), (a, b)), shape=(count, count))
        self.classes, labels = connected_components(links, directed=False)
        self.class_of: IntArray = labels.astype(np.int64)
        self.feeds_output: BoolArray = np.zeros(self.classes, bool)
        for number in self.calls.outputs:
            self.feeds_output[self.class_of[self.channels[number]]] = True
        first = np.full(self.classes, -1)
        for index, (numbers, _) in reversed(list(enumerate(self._fixed))):
            first[self.class_of[numbers]] = index
        self.reasons = {item: self._fixed[first[item]][1] for item in np.flatnonzero(first >= 0).tolist()}

    def _guarded(self, protected: tuple[str, ...]) -> set[int]:
        found = set()
        for pattern in protected:
            hits = {id(step.layer) for step in self.steps if is_named(step.layer.name, pattern)}
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
            if step.kind in (*WEIGHTED, "heads") or outputs & seen_by_makers:
                seen_by_makers.update(step.call.inputs)
            else:
                found.add(position)
        return found

    def _before_makers(self) -> set[int]:
        """Positions of calls that no layer with weights precedes: the input's channels are not removed anyway."""
        plain = set(self.calls.inputs)
        found = set()
        for position, step in enumerate(self.steps):
            if step.kind not in (*WEIGHTED, "heads") and plain.issuperset(step.call.inputs):
                plain.update(step.call.outputs)
                found.add(position)
        return found

    def _before(self, position: int) -> str:
        inputs = set(self.steps[position].call.inputs)
        names = [step.layer.name for step in self.steps[:position] if inputs & set(step.call.outputs)]
        return ", ".join(names) or "the input"

    def _source(self, number: int, reason: str) -> None:
        self._noisy[number] = np.zeros(self.flow.size(number), bool)
        self._fixed.append((self.channels[number], reason))

    def _judge(self, step: Step) -> None:
        """Which channels a step fixes, and which of those behind it are not zero when they are masked."""
        layer, call = step.layer, step.call
        ins = [self.channels[number] for number in call.inputs]
        noises = [self._noisy[number] for number in call.inputs]
        guarded = id(layer) in self.guarded
        if guarded or step.kind in CLOSED:
            self._fix(ins, f"{layer.name} is protected" if guarded else f"{layer.name} {step.why}")
        if step.kind in CLOSED:
            for number in call.outputs:
                self._source(number, f"{layer.name} makes it")
            if guarded and step.kind == "heads":
                self._fix([self.ports[id(layer)].outward], f"{layer.name} is protected")
            return
        self._fix([self.channels[n] for n in step.beside], f"{layer.name} spreads it over all channels of another")
        match step.kind:
            case "make" | "depthwise":
                if step.kind == "make":
                    self._must_be_zero(layer, ins[0], noises[0])
                noise: BoolArray = np.full(self.flow.size(call.outputs[0]), not step.keeps)
            case "norm":
                # gamma makes up for a masked channel that is not zero; a moving mean of zero does not.
                noise = noises[0] & (not layer.scale)
            case "pass":
                noise = noises[step.main] | (not step.keeps)
            case "l2norm":
                self._must_be_zero(layer, ins[0], noises[0])
                noise = noises[0]
            case "sum" | "product":
                noise = np.logical_or.reduce(noises) if step.kind == "sum" else np.logical_and.reduce(noises)
            case "join":
                noise = np.concatenate(noises)
            case _:
                before = np.concatenate([self._noisy[number] for number in dict.fromkeys(call.inputs)])
                for number, index in zip(call.outputs, step.index, strict=True):
                    self._noisy[number] = np.logical_or.reduce(before[index])
        if step.kind != "move":
            self._noisy[call.outputs[0]] = noise
        if step.mixes:
            self._fix([self.channels[call.outputs[0]]], f"the activation of {layer.name} mixes channels")
        if guarded:
            self._fix([self.channels[number] for number in call.outputs], f"{layer.name} is protected")

    def _must_be_zero(self, layer: Any, channels: IntArray, noise: BoolArray) -> None:
        """What a layer reads as something other than zero when it is masked cannot be taken out exactly: it stays."""
        if noise.any():
            self._fix([channels[noise]], f"{layer.name} reads it as a constant that is not zero when it is masked")

    def _fix(self, channels: list[IntArray], reason: str) -> None:
        self._fixed += [(numbers, reason) for numbers in channels]
