"""The whole model and the smaller one side by side: each layer of the smaller is solved once its inputs are final."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers

from lib.arrays import BoolArray, FloatArray
from lib.errors import DataError, ModelError
from lib.pruning.gram import RULED, Affine, Sums, positions, solve_before_relu
from lib.pruning.graph.channels import ChannelGraph
from lib.pruning.graph.flow import Step
from lib.pruning.graph.kinds import MAKERS, has_factors
from lib.pruning.held import Held
from lib.pruning.masks import Masks, resolve
from lib.pruning.photographs import Group, as_batch, is_photograph, window

logger = logging.getLogger(__name__)

GROUPED = 8  # photographs of one size that go through the models together
ROWS_BYTES = 128 << 20  # of a layer's rows, kept for the re-weighted solve


@dataclass(frozen=True)
class RepairedLayer:
    """One layer that was solved.

    Attributes:
        before, after: the part of its target's variance that it misses, behind the ReLU where one follows.
        positions: how many rows it was solved from.
        unknowns: weights of one output channel.

    """

    name: str
    before: float
    after: float
    positions: int
    unknowns: int


class Walk:
    """Both models, a step at a time. Tensors have the numbers of the whole model's graph."""

    def __init__(
        self,
        model: keras.Model,
        small: keras.Model,
        masks: Masks,
        held: Held,
        count: int,
        ridge: float,
        seed: int,
        before_relu: bool,
    ) -> None:
        self.graph = ChannelGraph(model, masks.protected)
        _, silenced = resolve(self.graph, masks)
        if silenced is None:
            raise ModelError(
                f"masks of mode {masks.mode!r} are not removed as they are; repair needs those of `shrink`"
            )
        self.silenced, self.held, self.ridge, self.seed = silenced, held, ridge, seed
        self.count, self.before_relu = count, before_relu
        self.small = {operation.name: operation for operation in small.operations}
        self.images, self.left = 0, list[str]()
        self.groups: list[Group] = []
        self.steps = self.graph.steps
        self.readers: dict[int, list[int]] = {}
        for position, step in enumerate(self.steps):
            for number in set(step.call.inputs):
                self.readers.setdefault(number, []).append(position)
        self.calls_of: dict[int, list[int]] = {}
        for position, step in enumerate(self.steps):
            self.calls_of.setdefault(id(step.layer), []).append(position)
        self.touched = self._touched()
        self.order = self._order()
        self.when = {position: turn for turn, position in enumerate(self.order)}

    def _touched(self) -> dict[int, bool]:
        """By tensor, whether it differs between the models; of a layer with weights every call does, or none."""
        solved: set[int] = set()
        while True:
            touched = dict.fromkeys(self.graph.calls.inputs, False)
            for step in self.steps:
                gone = any(not self.kept(number).all() or touched[number] for number in step.call.inputs)
                gone |= step.kind == "heads" and bool(self.silenced.off[id(step.layer)].any())
                touched.update(dict.fromkeys(step.call.outputs, gone or id(step.layer) in solved))
            found = {
                id(step.layer)
                for step in self.steps
                if getattr(step.layer, "weights", None) and touched[step.call.outputs[0]]
            }
            if found == solved:
                return touched
            solved = found

    def kept(self, number: int) -> BoolArray:
        return self.silenced.alive[self.graph.class_of[self.graph.channels[number]]]

    def take(self, images: Iterable[Any], boxes: Sequence[FloatArray] | None, window_px: tuple[int, int]) -> None:
        random = np.random.default_rng(self.seed)
        given = list(boxes) if boxes is not None else None
        open_size = None in self.graph.calls.shapes[self.graph.calls.inputs[0]][1:3]
        waiting: dict[tuple[int, ...], list[tuple[FloatArray, FloatArray | None]]] = {}
        for image in images:
            alone = is_photograph(image)
            parts = keras.tree.flatten(as_batch(image, self.graph.calls.model, np.uint8 if alone else np.float32))
            if given is not None and self.images >= len(given):
                raise DataError(f"boxes of {len(given)} images for more images; give one array for each image")
            faces: FloatArray | None = None
            if given is not None:
                faces = np.asarray(given[self.images], np.float64).reshape(-1, 4)
            spatial = len(parts) == 1 and parts[0].ndim == 4
            if spatial and open_size:
                parts[0], faces = window(parts[0], faces, window_px, random)
            self.images += 1
            if spatial and alone:
                same = waiting.setdefault(parts[0].shape, [])
                same.append((parts[0], faces))
                if len(same) == GROUPED:
                    self._group(waiting.pop(parts[0].shape))
            else:
                self._put_group(Group(parts[0].shape[1:3] if spatial else None, (faces,)), parts)
        for same in waiting.values():
            self._group(same)
        if not self.images:
            raise DataError("a repair needs images, and there is none; some 192 photographs like those of training do")
        if given is not None and len(given) != self.images:
            raise DataError(f"boxes of {len(given)} images for {self.images} images; give one array for each image")

    def _group(self, same: list[tuple[FloatArray, FloatArray | None]]) -> None:
        windows, faces = zip(*same, strict=True)
        self._put_group(Group(windows[0].shape[1:3], faces), [np.concatenate(windows)])

    def _put_group(self, group: Group, parts: Sequence[FloatArray]) -> None:
        for number, part in zip(self.graph.calls.inputs, parts, strict=True):
            self.held.put(("whole", number, len(self.groups)), np.ascontiguousarray(part))
        self.groups.append(group)

    def run(self) -> list[RepairedLayer]:
        done = []
        solved: set[int] = set()
        last = {number: max(map(self.when.__getitem__, users)) for number, users in self.readers.items()}
        outputs_of = {number for step in self.steps for number in step.call.outputs}
        for turn, position in enumerate(self.order):
            step = self.steps[position]
            norm = self._norm_behind(step)
            if self._wanted(step) and position not in self.silenced.dead and id(step.layer) not in solved:
                solved |= {id(step.layer), id(norm)}
                done.append(self._solve(position, step, norm))
            elif self._without_rule(step) and position not in self.silenced.dead:
                self.left.append(step.layer.name)
            for place in range(len(self.groups)):
                self._advance(position, step, place)
            for number, when in last.items():
                if when <= turn and (number in outputs_of or number in self.graph.calls.inputs):
                    for place in range(len(self.groups)):
                        self.held.drop(("whole", number, place))
                        self.held.drop(("small", number, place))
            last = {number: when for number, when in last.items() if when > turn}
        return done

    def _order(self) -> list[int]:
        """Producers first; a layer of several calls waits until all its inputs are there, if they can be."""
        waiting, ready, order = list(range(len(self.steps))), set(self.graph.calls.inputs), list[int]()
        while waiting:
            able = [p for p in waiting if ready.issuperset(self.steps[p].call.inputs)]
            whole = (
                p
                for p in able
                if not self._wanted(self.steps[p])
                or all(ready.issuperset(self.steps[q].call.inputs) for q in self.calls_of[id(self.steps[p].layer)])
            )
            position = next(whole, able[0])
            order.append(position)
            waiting.remove(position)
            ready.update(self.steps[position].call.outputs)
        return order

    def _wanted(self, step: Step) -> bool:
        """Whether a layer is to be solved: it has a rule, and something changes for it."""
        if not any(self.touched[self.steps[p].call.outputs[0]] for p in self.calls_of[id(step.layer)]):
            return False
        if type(step.layer) not in RULED:
            return False
        if any(self.graph.axes[n] != len(self.graph.calls.shapes[n]) - 1 for n in step.call.inputs[:1]):
            return False
        if step.kind == "norm":
            return bool(step.layer.scale and step.layer.center) and self._folded_into(step) is None
        return step.kind in MAKERS

    def _without_rule(self, step: Step) -> bool:
        if self._wanted(step) or step.kind == "sum" or not getattr(step.layer, "weights", None):
            return False
        return self.touched[step.call.outputs[0]] and not (step.kind == "norm" and self._folded_into(step) is not None)

    def _norm_behind(self, step: Step) -> Any:
        """The batch normalisation that alone reads what a layer makes and reads nothing else, or None."""
        if type(step.layer) not in RULED or step.kind not in MAKERS or len(self.calls_of[id(step.layer)]) > 1:
            return None
        if step.layer.activation is not keras.activations.linear:
            return None
        users = self.readers.get(step.call.outputs[0], [])
        if len(users) != 1 or step.call.outputs[0] in self.graph.calls.outputs:
            return None
        behind = self.steps[users[0]]
        batch = isinstance(behind.layer, layers.BatchNormalization) and behind.kind == "norm"
        return behind.layer if batch and len(self.calls_of[id(behind.layer)]) == 1 else None

    def _folded_into(self, norm: Step) -> Any:
        makers = [step for step in self.steps if norm.call.inputs[0] in step.call.outputs]
        return makers[0].layer if makers and self._norm_behind(makers[0]) is norm.layer else None

    def _end(self, step: Step, norm: Any) -> int:
        """The tensor that the solved map makes."""
        number = step.call.outputs[0]
        return self.steps[self.readers[number][0]].call.outputs[0] if norm is not None else number

    def _solve(self, position: int, step: Step, norm: Any) -> RepairedLayer:
        layer = step.layer
        whole, mended = Affine(layer, norm), Affine(self.small[layer.name], norm and self.small[norm.name])
        start = mended.start()
        sums = Sums(mended.matrix, mended.intercept)
        calls = [
            self.steps[p]
            for p in self.calls_of[id(layer)]
            if p not in self.silenced.dead
            and all(("whole", n, 0) in self.held.arrays for n in self.steps[p].call.inputs)
        ]
        relu = self.before_relu and (_is_relu(getattr(layer, "activation", None)) or self._relu_reads(step, norm))
        share = -(-self.count // (self.images * len(calls)))
        fits = share * self.images * len(calls) * mended.matrix.shape[0] * mended.matrix.shape[1] * 4 <= ROWS_BYTES
        kept_rows: list[tuple[FloatArray, FloatArray]] = []
        random = np.random.default_rng([self.seed, position])
        out = self.kept(step.call.outputs[0])
        corrected = self._sum_behind(position, step, norm)
        for place, group in enumerate(self.groups):
            for call in calls:
                number = call.call.inputs[0]
                read = whole.reading.prepared(self._whole(number, place))
                grid = whole.reading.grid(read.shape)
                at = positions(grid, share * len(group.boxes), random, group.faces_at(grid))
                target = whole(whole.reading.rows(read, at)).reshape(len(at), -1)[:, out]
                if corrected is not None:
                    target = target + self._missing(*corrected, place, grid, at)
                rows = mended.reading.rows(mended.reading.prepared(self._small(number, place)), at)
                target = target.reshape(len(at), mended.groups, -1)
                sums.add(rows, target)
                if relu and fits:
                    kept_rows.append((rows, target))
        held = sum(rows.nbytes + target.nbytes for rows, target in kept_rows)
        self.held.note(4 * held + 3 * sums.nbytes)
        if kept_rows:
            rows, target = (np.concatenate(parts) for parts in zip(*kept_rows, strict=True))
            solution, errors = solve_before_relu(sums, rows, target, start, self.ridge)
        else:
            solution = sums.solve(start, self.ridge)
            before, after = sums.error(start), sums.error(solution)
            solution = np.where((after <= before)[:, None], solution, start)
            errors = np.stack([before.reshape(-1), np.minimum(before, after).reshape(-1), sums.spread().reshape(-1)])
        mended.write(solution, sums)
        spread = max(float(errors[2].sum()), 1e-30)
        unknowns = start.shape[1]
        logger.debug("%s: %.4f -> %.4f", layer.name, errors[0].sum() / spread, errors[1].sum() / spread)
        return RepairedLayer(
            layer.name, float(errors[0].sum()) / spread, float(errors[1].sum()) / spread, sums.count, unknowns
        )

    def _relu_reads(self, step: Step, norm: Any) -> bool:
        end = self._end(step, norm)
        users = [self.steps[p].layer for p in self.readers.get(end, [])]
        return len(users) > 0 and end not in self.graph.calls.outputs and all(map(_cuts_off, users))

    def _sum_behind(self, position: int, step: Step, norm: Any) -> tuple[list[tuple[float, int]], bool] | None:
        """Where the map is the last operand of an addition: the others, each with its weight beside the map's own.

        And whether they are cropped to the map's size.
        """
        end = self._end(step, norm)
        users = self.readers.get(end, [])
        activation = getattr(step.layer, "activation", keras.activations.linear)
        if len(users) != 1 or len(self.calls_of[id(step.layer)]) > 1 or activation is not keras.activations.linear:
            return None
        addition = self.steps[users[0]]
        numbers = addition.call.inputs
        if addition.kind != "sum" or users[0] in self.silenced.dead or numbers.count(end) > 1:
            return None
        weights = _weights(addition.layer, len(numbers))
        others = [number for number in numbers if number != end]
        done = all(("whole", number, 0) in self.held.arrays for number in others)
        if weights is None or not done or abs(weights[numbers.index(end)]) < 1e-3:
            return None
        own = weights[numbers.index(end)]
        beside = [(weights[numbers.index(number)] / own, number) for number in others]
        return beside, getattr(addition.layer, "crops_to_first", False)

    def _missing(
        self, others: list[tuple[float, int]], cropped: bool, place: int, grid: tuple[int, ...], at: Any
    ) -> FloatArray | float:
        """What the other operands lack at these positions, [n, channels kept]."""
        lack: FloatArray | float = 0.0
        for weight, number in others:
            out = self.kept(number)
            difference = self._whole(number, place)[..., out]
            if self._lives(number):
                difference = difference - self._small(number, place)
            if cropped and difference.ndim == 4:
                difference = difference[:, : grid[1], : grid[2]]
            if difference.shape[:-1] != tuple(grid) or not out.any():
                continue
            lack = lack + weight * difference.reshape(-1, difference.shape[-1])[at]
        return lack

    def _lives(self, number: int) -> bool:
        if not self.touched[number]:
            return bool(self.kept(number).any())
        return ("small", number, 0) in self.held.arrays

    def _whole(self, number: int, place: int) -> FloatArray:
        return self.held.get(("whole", number, place))

    def _small(self, number: int, place: int) -> FloatArray:
        if self.touched[number]:
            return self.held.get(("small", number, place))
        value, kept = self._whole(number, place), self.kept(number)
        if kept.all():
            return value
        return np.compress(kept, value, self.graph.axes[number])  # up to here both models are the same

    def _advance(self, position: int, step: Step, place: int) -> None:
        """Makes a step's outputs in both models."""
        self._put("whole", step, place, _call(step, step.layer, lambda number: self._whole(number, place)))
        if position in self.silenced.dead or not self.touched[step.call.outputs[0]]:
            return
        lost = [number for number in step.call.inputs if not self._lives(number)]
        if step.kind in ("sum", "join") and lost:
            operands = [self._small(number, place) for number in step.call.inputs if number not in lost]
            if position in self.silenced.scaled:
                made = self.small[step.layer.name](operands[0])
            else:
                made = operands[0] if len(operands) == 1 else self.small[step.layer.name](operands)
        else:
            kept = {number: self.kept(number) for number in (*step.call.inputs, *step.call.outputs)}
            _, instead = self.graph.flow.for_fewer(step, kept)
            made = _call(step, self.small[step.layer.name], lambda number: self._small(number, place), instead)
        self._put("small", step, place, made)

    def _put(self, side: str, step: Step, place: int, made: Any) -> None:
        for number, value in zip(step.call.outputs, keras.tree.flatten(made), strict=True):
            if number in self.readers and (side == "whole" or self.kept(number).any()):
                self.held.put((side, number, place), value)


def _call(step: Step, layer: Any, value: Callable[[int], FloatArray], instead: Any = None) -> Any:
    pairs = zip(step.call.node.input_tensors, step.call.inputs, strict=True)
    tensors = {number: keras.ops.convert_to_tensor(value(number), tensor.dtype) for tensor, number in pairs}
    args, kwargs = step.call.arguments(tensors, instead)
    if "training" in kwargs:  # written into the model; both are compared as they infer
        kwargs = {**kwargs, "training": False}
    return layer(*args, **kwargs)


def _weights(layer: Any, operands: int) -> list[float] | None:
    """What an addition multiplies each operand with; None for sums of other kinds."""
    if isinstance(layer, layers.Add) or type(layer).__name__ == "Add":
        return [1.0] * operands
    return layer.operand_weights() if has_factors(layer) else None


def _is_relu(function: Any) -> bool:
    return function in (keras.activations.relu, keras.activations.relu6)


def _cuts_off(layer: Any) -> bool:
    """Whether a layer makes zeros of all that is below zero."""
    if isinstance(layer, layers.ReLU):
        return not layer.negative_slope and not layer.threshold
    return isinstance(layer, layers.Activation) and _is_relu(layer.activation)
