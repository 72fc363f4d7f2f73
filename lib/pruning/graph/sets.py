"""The prunable channels of a model, as sets of channels that can only go together."""

from dataclasses import dataclass
from typing import Literal

import keras
import numpy as np
from numpy.typing import NDArray

from lib.arrays import BoolArray, IntArray
from lib.pruning.graph.channels import ChannelGraph
from lib.pruning.graph.flow import Ports
from lib.pruning.graph.weights import weight_axes

Mode = Literal["removable", "per_layer"]


@dataclass(frozen=True)
class ChannelSet:
    """Channels that can only be removed together, channel j of every member at once.

    Attributes:
        name: the first layer that makes them; "conv#2" for a second set of the same layer.
        size: how many channels.
        convolutions: layers whose filters they are, dense ones included.
        norms: batch normalisations that these channels run through.

    """

    name: str
    size: int
    convolutions: tuple[str, ...]
    norms: tuple[str, ...]


def channel_sets(model: keras.Model, mode: Mode = "removable", protected: tuple[str, ...] = ()) -> list[ChannelSet]:
    """The prunable channels of a functional model, in the order in which the model makes them.

    Channels that come from the inputs or reach the outputs (the heads') are in no set, and so are those that could not
    be taken out exactly: a masked channel behind a sigmoid is 0.5, and only a multiplication makes a zero of that.

    Args:
        model: functional model of supported layers; nested models are read too. Anything may follow the heads.
        mode: "removable": tied channels form one set, so that whatever is zeroed can be taken out. "per_layer": every
            convolution by itself, as published with B-FPGM; what is zeroed may then have to stay.
        protected: patterns of layer names ("stem*"): channels that these read or make are in no set. A layer that is
            not supported can be let through so.

    Raises:
        ModelError: the model has a layer whose channels cannot be followed; it is named.
        ConfigError: a pattern of `protected` fits no layer.

    """
    return [found.item for found in SetMap(ChannelGraph(model, protected), mode).sets]


@dataclass(frozen=True)
class PlacedSet:
    """A set and its place in the graph.

    Attributes:
        slots: [size], for each channel its slot: a class in mode "removable", a channel number in "per_layer".
        prunable: False for channels that must stay.

    """

    item: ChannelSet
    slots: IntArray
    prunable: bool


class SetMap:
    """The sets of a channel graph, and the way from a set's channels to those of the layers.

    Attributes:
        sets: the prunable ones, in the order in which the model makes them.
        fixed: those that must stay, likewise; every class is in one of both (mode "removable").
        slot_of: for each channel number its slot.
        slots: how many slots there are.

    """

    def __init__(self, graph: ChannelGraph, mode: Mode) -> None:
        self.graph, self.mode = graph, mode
        count = len(graph.class_of)
        self.slot_of: IntArray = graph.class_of if mode == "removable" else np.arange(count)
        self.slots = graph.classes if mode == "removable" else count
        placed = self._placed()
        self.sets = [found for found in placed if found.prunable]
        self.fixed = [found for found in placed if not found.prunable]

    def makers(self) -> list[Ports]:
        """The layers that make channels, in the order of first calls."""
        return [port for port in self.graph.ports.values() if port.kind in ("make", "depthwise")]

    def readers(self) -> list[Ports]:
        """The layers with weights that read channels, batch normalisations left out, in the order of first calls."""
        ports = (port for port in self.graph.ports.values() if port.inward is not None and port.kind != "norm")
        return [port for port in ports if getattr(port.layer, "weights", None)]

    def _placed(self) -> list[PlacedSet]:
        makers = self.makers()
        norms = [port for port in self.graph.ports.values() if port.kind == "norm"]
        none = [np.zeros(0, np.int64)]
        made = np.concatenate([self.slot_of[port.outward] for port in makers] or none)
        maker_of = np.repeat(np.arange(len(makers)), [len(port.outward) for port in makers])
        # Channels that the same layers make go by one rate: they are a set. They must also cost the same.
        random = np.random.default_rng(1)
        alike = self._read_as()
        np.add.at(alike, made, _numbers(random, len(makers))[maker_of])
        classes = np.zeros(self.slots, np.int64)
        classes[self.slot_of] = self.graph.class_of
        fixed = np.isin(classes, list(self.graph.reasons))
        alike[fixed] += _numbers(random, 1)
        _, group = np.unique(alike[made], return_inverse=True)
        parts = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1]) if len(made) else []
        parts.sort(key=lambda part: int(part[0]))
        set_of = np.full(self.slots, -1)
        for number, part in enumerate(parts):
            set_of[made[part]] = number
        through: list[list[str]] = [[] for _ in parts]
        for port in norms:
            for number in np.unique(set_of[self.slot_of[port.outward]]).tolist():
                if number >= 0:
                    through[number].append(port.layer.name)
        found = []
        names: dict[str, int] = {}
        for part, behind in zip(parts, through, strict=True):
            members = tuple(dict.fromkeys(makers[index].layer.name for index in np.unique(maker_of[part]).tolist()))
            slots = made[part][np.sort(np.unique(made[part], return_index=True)[1])]
            count = names[members[0]] = names.get(members[0], 0) + 1
            name = members[0] if count == 1 else f"{members[0]}#{count}"
            item = ChannelSet(name, len(slots), members, tuple(behind))
            found.append(PlacedSet(item, slots, not fixed[slots[0]]))
        return found

    def _read_as(self) -> NDArray[np.uint64]:
        """By slot, a number that is the same for slots that stand equally often on every axis of every weight."""
        found = np.zeros(self.slots, np.uint64)
        if self.mode == "per_layer":
            return found
        random = np.random.default_rng(0)
        for port in self.graph.ports.values():
            if not getattr(port.layer, "weights", None):
                continue
            for axis in (
                axis for _, axes in weight_axes(port.layer, port.inward, port.outward) for axis in axes.values()
            ):
                counts = np.bincount(self.slot_of[axis], minlength=self.slots).astype(np.uint64)
                found += counts * _numbers(random, 1)  # wraps around
        return found

    def off(self, channels: dict[str, tuple[int, ...]]) -> BoolArray:
        """By slot, True for the masked `channels` (set name -> indices)."""
        result = np.zeros(self.slots, bool)
        for found in self.sets:
            result[found.slots[list(channels[found.item.name])]] = True
        return result


def _numbers(random: np.random.Generator, count: int) -> NDArray[np.uint64]:
    return random.integers(1, 1 << 63, count, dtype=np.uint64)
