"""What a model will cost once channels are removed, in closed form: nothing is built, nothing is run."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import keras
import numpy as np

from lib.arrays import BoolArray, FloatArray, IntArray
from lib.errors import ConfigError
from lib.pruning.cost import is_learned, kernels, positions_of
from lib.pruning.graph.channels import ChannelGraph
from lib.pruning.graph.sets import ChannelSet, PlacedSet, SetMap
from lib.pruning.graph.silence import silence
from lib.pruning.graph.weights import weight_axes
from lib.pruning.masks import Masks


@dataclass(frozen=True)
class Cost:
    """Trainable parameters, and multiply-accumulates of one image."""

    parameters: int
    macs: int


class CostModel:
    """Cost of a model as a function of how many channels each set keeps, exact to the last parameter.

    A call takes some ten microseconds. Sets that are emptied are followed through the graph, once for every
    combination of emptied sets.

    Args:
        model: functional model of supported layers.
        height_px, width_px: input size for the multiply-accumulates.
        protected: as for `channel_sets`.

    Attributes:
        sets: the prunable sets, "removable"; `set_map` places them in the model's graph.
        full: cost with all channels.

    """

    def __init__(self, model: keras.Model, height_px: int, width_px: int, protected: tuple[str, ...] = ()) -> None:
        self._graph = ChannelGraph(model, protected)
        self.set_map = placed = SetMap(self._graph, "removable")
        self._placed: list[PlacedSet] = [*placed.sets, *placed.fixed]
        self.sets: list[ChannelSet] = [found.item for found in placed.sets]
        self._index = {item.name: number for number, item in enumerate(self.sets)}
        self._sizes = np.array([found.item.size for found in self._placed], np.int64)
        self._rows = _weight_rows(self._graph, self._placed, height_px, width_px)
        self._factors = _factors(self._rows, frozenset())
        # The number of channels on an axis is a weighted sum of the sets' kept channels, plus those that always stay.
        self._sums = [np.array([row.axes[axis][0] for row in self._rows], np.float64) for axis in (0, 1)]
        self._always = [np.array([row.axes[axis][1] for row in self._rows]) for axis in (0, 1)]
        self._without: dict[bytes, tuple[BoolArray, FloatArray]] = {}
        self.full = self.of({})

    def of(self, kept: Mapping[str, int]) -> Cost:
        """Cost with `kept` channels of each set; a set that is not named keeps all, one with 0 goes with all it fed.

        Raises:
            ConfigError: a set is unknown, a count is not 0..its size, or the model would not work without a set.

        """
        parameters, macs = self._terms(kept).sum(axis=1)
        return Cost(int(parameters), int(macs))

    def of_channel(self, name: str) -> Cost:
        """What one channel of a known set costs while all others are there."""
        less = self.of({name: int(self._sizes[self._index[name]]) - 1})
        return Cost(self.full.parameters - less.parameters, self.full.macs - less.macs)

    def by_layer(self, kept: Mapping[str, int]) -> dict[str, Cost]:
        """`of` for every layer that has weights, by its name; layers that are gone have 0 and 0."""
        found: dict[str, FloatArray] = {}
        for row, terms in zip(self._rows, self._terms(kept).T, strict=True):
            found[row.layer] = found.get(row.layer, np.zeros(2)) + terms
        return {name: Cost(int(parameters), int(macs)) for name, (parameters, macs) in found.items()}

    def channels(self, kept: Mapping[str, int]) -> IntArray:
        """[sets + fixed sets], in `set_map`'s order: the channels that are left; none of a set that goes with others.

        Raises:
            ConfigError: as `of`.

        """
        counts = self._counts(kept)
        return counts if counts.all() else counts * self._after(counts == 0)[0]

    def _counts(self, kept: Mapping[str, int]) -> IntArray:
        counts = self._sizes.copy()
        for name, count in kept.items():
            if name not in self._index:
                raise ConfigError(f"no set of channels is called {name!r}; known: {', '.join(self._index)}")
            number = self._index[name]
            if not 0 <= count <= self._sizes[number]:
                raise ConfigError(f"{name} has {self._sizes[number]} channels and cannot keep {count}")
            counts[number] = count
        return counts

    def _terms(self, kept: Mapping[str, int]) -> FloatArray:
        """[2, weights]: every weight's parameters and multiply-accumulates."""
        counts, factors = self._counts(kept), self._factors
        if not counts.all():
            present, factors = self._after(counts == 0)
            counts = counts * present
        channels: FloatArray = self._sums[0] @ counts + self._always[0]
        return factors * channels * (self._sums[1] @ counts + self._always[1])

    def _after(self, emptied: BoolArray) -> tuple[BoolArray, FloatArray]:
        """Once these sets are emptied: which sets still have channels, and each weight's factors."""
        key = emptied.tobytes()
        if key not in self._without:
            masked = np.zeros(self._graph.classes, bool)
            for number in np.flatnonzero(emptied):
                masked[self._placed[number].slots] = True
            result = silence(self._graph, masked)
            present = np.array([bool(result.alive[found.slots].any()) for found in self._placed])
            self._without[key] = (present, _factors(self._rows, result.dead | result.scaled))
        return self._without[key]


def removal_report(cost: CostModel, masks: Masks) -> dict[str, Any]:
    """What masks of mode "removable" will leave of a model, as a JSON-able dict for `lib.tables.removal_table`.

    Returns:
        `sets`: for each set its `name`, `members`, `channels`, `kept`, and `parameters`, `macs` and `full_parameters`,
        `full_macs` of its members, a layer that belongs to several sets with the first of them; `rest`: the same sums
        of all other layers; `total`: of the model.

    """
    kept = {item.name: item.size - len(masks.channels[item.name]) for item in cost.sets}
    before, after = cost.by_layer({}), cost.by_layer(kept)

    def sums(names: Iterable[str]) -> dict[str, int]:
        return {
            "full_parameters": sum(before[name].parameters for name in names),
            "parameters": sum(after[name].parameters for name in names),
            "full_macs": sum(before[name].macs for name in names),
            "macs": sum(after[name].macs for name in names),
        }

    rows = []
    others = dict.fromkeys(before)
    for item in cost.sets:
        members = [name for name in (*item.convolutions, *item.norms) if name in others]
        for name in members:
            del others[name]
        row = {"name": item.name, "members": list(item.convolutions), "channels": item.size, "kept": kept[item.name]}
        rows.append({**row, **sums(members)})
    return {"sets": rows, "rest": sums(list(others)), "total": sums(list(before))}


@dataclass(frozen=True)
class _WeightRow:
    """One weight: constant * channels on its first axis of channels * channels on its second.

    Attributes:
        positions: position of each call of its layer -> how often the weight is multiplied with there, for an image;
            0 if it is no kernel.
        axes: for each of the two, (how often each set's channels are on it, how many others are).

    """

    layer: str
    constant: int
    learned: bool
    positions: dict[int, int]
    axes: tuple[tuple[IntArray, int], tuple[IntArray, int]]


def _factors(rows: list[_WeightRow], gone: frozenset[int]) -> FloatArray:
    """[2, weights]: what the product of a weight's channels is multiplied with for its parameters and its MACs.

    In float64, which is exact up to 2^53 and multiplies matrices far faster than integers do.
    """
    parameters, macs = [], []
    for row in rows:
        left = row.positions.keys() - gone
        parameters.append(row.constant if row.learned and left else 0)
        macs.append(row.constant * sum(row.positions[position] for position in left))
    return np.array([parameters, macs], np.float64)


def _weight_rows(graph: ChannelGraph, placed: list[PlacedSet], height_px: int, width_px: int) -> list[_WeightRow]:
    shapes = graph.calls.shapes_at(height_px, width_px)
    set_of = np.full(graph.classes, len(placed))  # the last: channels of inputs, which no set holds
    for number, found in enumerate(placed):
        set_of[found.slots] = number
    sizes = np.array([found.item.size for found in placed] + [1])
    none = (np.zeros(len(placed), np.int64), 1)

    def axis(numbers: IntArray) -> tuple[IntArray, int]:
        counts = np.bincount(set_of[graph.class_of[numbers]], minlength=len(placed) + 1)
        return counts[:-1] // sizes[:-1], int(counts[-1])

    calls: dict[int, list[int]] = {}  # id of a layer -> positions of its calls
    for position, step in enumerate(graph.steps):
        calls.setdefault(id(step.layer), []).append(position)
    rows = []
    for layer in {id(step.layer): step.layer for step in graph.steps if isinstance(step.layer, keras.Layer)}.values():
        multiplied = {id(weight) for weight in kernels(layer)}
        port = graph.ports.get(id(layer))
        described: list[tuple[Any, dict[int, Any]]] = [(weight, {}) for weight in layer.weights]
        if port:
            described = weight_axes(layer, port.inward, port.outward)
        for weight, axes in described:
            constant = prod(size for number, size in enumerate(weight.shape) if number not in axes)
            met = id(weight) in multiplied
            positions = {
                at: positions_of(graph.steps[at].call, shapes, weight) if met else 0 for at in calls[id(layer)]
            }
            first, second, *_ = [*(axis(numbers) for numbers in axes.values()), none, none]
            rows.append(_WeightRow(layer.name, constant, is_learned(weight), positions, (first, second)))
    return rows
