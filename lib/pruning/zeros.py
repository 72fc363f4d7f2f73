"""What of a model that already has zero filters can be removed exactly, and why the rest cannot."""

from collections import Counter
from dataclasses import dataclass

import keras
import numpy as np

from lib.arrays import BoolArray
from lib.errors import ConfigError
from lib.pruning.facts import facts_by_weights, silent_slots
from lib.pruning.graph.channels import ChannelGraph
from lib.pruning.graph.flow import Ports
from lib.pruning.graph.sets import SetMap
from lib.pruning.graph.silence import silence
from lib.pruning.graph.weights import filters_of
from lib.pruning.masks import Masks

NEGLIGIBLE = 1e-7  # about the precision of float32: beside the layer's other channels such a weight is lost
REMOVABLE = "can be removed"
OTHER_WRITERS = "not zero in every layer that writes into the same channel"
CONSTANT = "zero in every writer, but a bias or beta makes a constant of it that is read"
MUST_STAY = "in a set of channels that must stay"
LAST = "the last of a set that cannot be emptied"


@dataclass(frozen=True)
class ZeroFilter:
    """A filter whose weights are all zero, and what becomes of it."""

    layer: str
    channel: int
    outcome: str


@dataclass(frozen=True)
class RemovablePart:
    """What of a model can be removed without any change to its outputs.

    Attributes:
        masks: the channels that are zero wherever they are read, of mode "removable", for `shrink`.
        zero_filters: every filter that is all zero, in the model's order.

    """

    masks: Masks
    zero_filters: list[ZeroFilter]

    def counts(self) -> dict[str, int]:
        """Outcome -> how many zero filters have it."""
        found = Counter(item.outcome for item in self.zero_filters)
        return {outcome: found[outcome] for outcome in (REMOVABLE, OTHER_WRITERS, CONSTANT, MUST_STAY, LAST)}


def removable_part(model: keras.Model, protected: tuple[str, ...] = ()) -> RemovablePart:
    """Finds the channels that are zero wherever a layer reads them, for every input.

    A zero filter alone makes no zero channel: bias, batch normalisation and the other operands of an addition decide.
    Constants are followed through the graph, so that a constant that a ReLU cuts off at zero counts as zero.

    Args:
        model: functional model of supported layers, masked layer by layer or imported with zeros in it.
        protected: as for `channel_sets`.

    Raises:
        ModelError: a layer's channels cannot be followed.

    """
    graph = ChannelGraph(model, protected)
    placed = SetMap(graph, "removable")
    silent = silent_slots(placed, facts_by_weights(graph.flow))
    off = {found.item.name: tuple(np.flatnonzero(silent[found.slots]).tolist()) for found in placed.sets}
    last = _keep_what_is_needed(placed, off)
    gone = placed.off(off)

    zero_writers = np.ones(graph.classes, bool)
    empty = [(port, _zero_filters(port)) for port in placed.makers()]
    for port, zero in empty:
        zero_writers[graph.class_of[port.outward[~zero]]] = False
    rows = []
    for port, zero in empty:
        for channel in np.flatnonzero(zero).tolist():
            label = int(graph.class_of[port.outward[channel]])
            if gone[label]:
                outcome = REMOVABLE
            elif label in graph.reasons:
                outcome = MUST_STAY
            elif not zero_writers[label]:
                outcome = OTHER_WRITERS
            else:
                outcome = LAST if label in last else CONSTANT
            rows.append(ZeroFilter(port.layer.name, channel, outcome))
    return RemovablePart(Masks("removable", off, protected), rows)


def silent_channels(placed: SetMap, negligible: float = NEGLIGIBLE) -> BoolArray:
    """By slot of mode "removable", True for channels that no layer reads as anything but zero, by the weights alone.

    Training with weight decay leaves such channels behind: their weights shrink towards zero and never quite get there.

    Args:
        placed: the sets of a model.
        negligible: weights of at most this share of a layer's largest count as zero.

    """
    return silent_slots(placed, facts_by_weights(placed.graph.flow, negligible=negligible))


def _zero_filters(port: Ports) -> BoolArray:
    filters = filters_of(port.layer)
    return np.asarray(~filters.any(axis=tuple(range(filters.ndim - 1))))


def _keep_what_is_needed(placed: SetMap, off: dict[str, tuple[int, ...]]) -> set[int]:
    """Takes one channel back into each emptied set that the model cannot do without; returns those classes."""
    back = set()
    for found in placed.sets:
        name = found.item.name
        if len(off[name]) == found.item.size:
            try:
                silence(placed.graph, placed.off(off))
            except ConfigError:
                back.add(int(found.slots[off[name][0]]))
                off[name] = off[name][1:]
    return back
