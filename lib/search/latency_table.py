"""Milliseconds of a plan in LiteRT, predicted from a table of the model's convolutions that is measured once.

Each convolution is timed alone, at full and at half its channels on either side; what lies between is interpolated.
What the whole model takes beyond its convolutions shrinks with their outputs. Last, whole models of a few plans, even
and uneven ones, are timed, and predictions are bent so that they fit these on average. What goes whole takes all of its
time along, and what is thinned less than its share: where a plan does both, each has a bend of its own.
"""

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from typing_extensions import TypedDict

from lib.arrays import FloatArray
from lib.detection.formats import litert
from lib.errors import ConfigError, ModelError
from lib.evaluation.latency import interleaved
from lib.files import read_own, write_json
from lib.pruning import CostModel, plan_kept, shrink

logger = logging.getLogger(__name__)

ANCHOR_RATES = (0.2, 0.4, 0.6)  # of the plans that are timed whole
_UNEVEN_PLANS = 3  # at each of these rates, beside the uniform one: they take longer than uniform ones
GONE_SHARES = (1 / 3, 2 / 3, 1.0)  # of the sets that may go whole, in further models that are timed
_PARTS = 4  # of the model, in its order; in an uneven plan each has a rate of its own
_ROUNDS = 30


@dataclass(frozen=True)
class Geometry:
    """What a convolution's time depends on.

    Attributes:
        kernel, strides, dilation: [height, width] each.
        height_px, width_px: of its input, without padding.
        inputs, outputs: channels.

    """

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilation: tuple[int, int]
    height_px: int
    width_px: int
    inputs: int
    outputs: int


Measure = Callable[[Mapping[str, Geometry], Mapping[str, keras.Model], int, int], dict[str, float]]


class _Table(TypedDict):
    """The file."""

    size: list[int]
    convolutions: list[str]
    grids_ms: list[Any]
    full_ms: float
    anchors: list[dict[str, Any]]
    branches: list[str]
    gone: list[dict[str, Any]]


class LatencyTable:
    """Predicts milliseconds of plans; call it with channels that stay by set name.

    Args:
        model: functional model of supported layers.
        height_px, width_px: input size.
        file: where the measured table is kept; it is read instead of measured if it is there.
        protected: patterns of layers whose channels stay, see `channel_sets`.
        branches: names of sets that may lose all channels.
        measure: times convolutions and whole models together and returns milliseconds by name.

    Raises:
        ModelError: the file is the table of another model or size, or of other branches.

    """

    def __init__(
        self,
        model: keras.Model,
        height_px: int,
        width_px: int,
        file: str | Path,
        measure: Measure | None = None,
        *,
        protected: tuple[str, ...] = (),
        branches: Sequence[str] = (),
    ) -> None:
        self.protected, self.branches = protected, tuple(branches)
        self._read_graph(model, height_px, width_px)
        file = Path(file)
        described = {
            "size": [height_px, width_px],
            "convolutions": [repr(item) for item in self.geometries],
            "branches": list(self.branches),
        }
        if not file.is_file():
            logger.info("measuring the milliseconds of %d convolutions", len(set(self.geometries)))
            write_json(file, {**described, **self._measured(model, height_px, width_px, measure or measure_litert)})
        table = read_own(file, _Table, ModelError, "remove it to measure anew")
        if {name: table[name] for name in described} != described:
            raise ModelError(
                f"{file}: a table of another model, input size or SEARCH.branches; remove it to measure anew"
            )
        self._grids = np.array(table["grids_ms"])
        self._full_ms = float(table["full_ms"])
        self._rest_ms = max(0.0, self._full_ms - float(self._convolutions(np.array(self.sizes)).sum()))
        self._raw_full = self._raw({})
        self._thinned = _bend(self._shares(table["anchors"]).reshape(len(ANCHOR_RATES), -1, 2).mean(axis=1))
        self._gone = _bend(self._shares(table["gone"]))

    def __call__(self, kept: Mapping[str, int]) -> float:
        """Milliseconds of one inference, one thread; sets that are not named keep all channels."""
        gone = {name: 0 for name, count in kept.items() if not count}
        whole = self._raw(gone) if gone else self._raw_full
        share = np.interp(whole / self._raw_full, *self._gone)
        return float(share * np.interp(self._raw(kept) / whole, *self._thinned)) * self._full_ms

    def _shares(self, timed: Sequence[Mapping[str, Any]]) -> FloatArray:
        """[plans, 2]: the shares of the whole model's milliseconds by the table, and as measured."""
        shares = [(self._raw(plan["kept"]) / self._raw_full, plan["ms"] / self._full_ms) for plan in timed]
        return np.array(shares).reshape(-1, 2)

    def _read_graph(self, model: keras.Model, height_px: int, width_px: int) -> None:
        self._cost = CostModel(model, height_px, width_px, self.protected)
        placed = self._cost.set_map
        graph = placed.graph
        sets = [*placed.sets, *placed.fixed]
        self.names = [found.item.name for found in placed.sets]
        self.sizes = [found.item.size for found in sets]
        set_of = np.full(placed.slots, len(sets))
        for number, found in enumerate(sets):
            set_of[found.slots] = number
        shapes = graph.calls.shapes_at(height_px, width_px)
        self.geometries: list[Geometry] = []
        ends: tuple[list[FloatArray], list[FloatArray]] = ([], [])
        positions = []
        for step in graph.steps:
            layer = step.layer
            if step.kind != "make" or not isinstance(layer, keras.layers.Conv2D):
                continue
            (number,), (made,) = step.call.inputs, step.call.outputs
            _, height, width, _ = (size or 0 for size in shapes[made])
            self.geometries.append(
                Geometry(
                    tuple(layer.kernel_size),
                    tuple(layer.strides),
                    tuple(layer.dilation_rate),
                    height * layer.strides[0],
                    width * layer.strides[1],
                    len(graph.channels[number]),
                    layer.filters,
                )
            )
            for side, tensor in enumerate((number, made)):
                slots = placed.slot_of[graph.channels[tensor]]
                ends[side].append(np.bincount(set_of[slots], minlength=len(sets) + 1).astype(float))
            positions.append(float(height * width))
        share = np.array([*(1 / size for size in self.sizes), 1.0])
        self._ins, self._outs = (np.array(side) * share for side in ends)  # [convolutions, sets + 1]
        self._positions = np.array(positions)

    def _raw(self, kept: Mapping[str, int]) -> float:
        """The sum over the table, before it is bent to fit whole models."""
        channels = self._cost.channels(kept).astype(float)
        outputs = self._outs @ np.append(channels, 1.0)
        everything = self._outs @ np.append(np.array(self.sizes, float), 1.0)
        rest = float(self._positions @ outputs) / float(self._positions @ everything)
        return float(self._convolutions(channels).sum()) + self._rest_ms * rest

    def _convolutions(self, channels: FloatArray) -> FloatArray:
        """Milliseconds of each convolution, [convolutions]: between the four measured corners, or on beyond them."""
        sides = []
        for ends, full in (
            (self._ins, [g.inputs for g in self.geometries]),
            (self._outs, [g.outputs for g in self.geometries]),
        ):
            whole = np.array(full, float)
            half = np.maximum(1, whole // 2)
            left = ends @ np.append(channels, 1.0)
            sides.append((left, np.where(whole > half, (left - half) / np.maximum(whole - half, 1), 1.0)))
        (inputs, a), (outputs, b) = sides
        corners = self._grids  # [convolutions, inputs half or full, outputs half or full]
        low, high = ((1 - b) * corners[:, side, 0] + b * corners[:, side, 1] for side in (0, 1))
        milliseconds = np.maximum((1 - a) * low + a * high, 0.1 * corners[:, 0, 0])
        return np.where((inputs > 0) & (outputs > 0), milliseconds, 0.0)

    def _plans(self, rate: float) -> list[dict[str, int]]:
        """Plans of about this rate, as channels that stay: the uniform one first."""
        rng = np.random.default_rng(0)
        part = np.arange(len(self.names)) * _PARTS // len(self.names)
        factors = [np.ones(_PARTS), *rng.uniform(0, 2, size=(_UNEVEN_PLANS, _PARTS))]
        rates = [np.minimum(rate * factor[part], 0.95) for factor in factors]
        return [
            {name: size - int(rate * size) for name, size, rate in zip(self.names, self.sizes, own, strict=False)}
            for own in rates
        ]

    def _without(self) -> list[dict[str, int]]:
        """Plans that take a growing part of the branches whole, as far as the model can do without."""
        order = np.random.default_rng(0).permutation(len(self.branches))
        counts = sorted({round(share * len(order)) for share in GONE_SHARES} - {0})
        plans = [{self.branches[number]: 0 for number in order[:count]} for count in counts]
        return [own for own in plans if self._works(own)]

    def _works(self, kept: Mapping[str, int]) -> bool:
        try:
            self._cost.of(kept)
        except ConfigError:
            return False
        return True

    def _measured(self, model: keras.Model, height_px: int, width_px: int, measure: Measure) -> dict[str, Any]:
        corners: dict[str, Geometry] = {}
        for geometry in set(self.geometries):
            for inputs in {max(1, geometry.inputs // 2), geometry.inputs}:
                for outputs in {max(1, geometry.outputs // 2), geometry.outputs}:
                    corner = _with(geometry, inputs, outputs)
                    corners[repr(corner)] = corner
        kept = [own for rate in ANCHOR_RATES for own in self._plans(rate)]
        without = self._without()
        plans = [plan_kept(model, own, protected=self.protected) for own in [*kept, *without]]
        models = {"full": model, **{f"plan{i}": shrink(model, own) for i, own in enumerate(plans)}}
        found = measure(corners, models, height_px, width_px)
        grids = [
            [
                [
                    found[repr(_with(geometry, inputs, outputs))]
                    for outputs in (max(1, geometry.outputs // 2), geometry.outputs)
                ]
                for inputs in (max(1, geometry.inputs // 2), geometry.inputs)
            ]
            for geometry in self.geometries
        ]
        timed = [{"kept": own, "ms": found[f"plan{i}"]} for i, own in enumerate([*kept, *without])]
        anchors, gone = timed[: len(kept)], timed[len(kept) :]
        return {"grids_ms": grids, "full_ms": found["full"], "anchors": anchors, "gone": gone}


def _bend(shares: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Knots of a rising curve from 0 to 1 through [plans, 2]: the table's shares, the measured ones."""
    raw, real = shares[np.argsort(shares[:, 0])].T
    rising = np.maximum.accumulate(np.minimum([0.0, *real, 1.0], 1.0))
    return np.array([0.0, *raw, 1.0]), rising


def measure_litert(
    convolutions: Mapping[str, Geometry], models: Mapping[str, keras.Model], height_px: int, width_px: int
) -> dict[str, float]:
    """Shortest milliseconds of each in LiteRT, one thread, all timed in turns; models take images of the given size."""
    with tempfile.TemporaryDirectory() as folder:
        runners: dict[str, Callable[[], None]] = {}
        files: dict[Geometry, Path] = {}
        for name, geometry in convolutions.items():
            shape = _with_size(geometry, 32, 32)  # one file serves all sizes
            if shape not in files:
                files[shape] = Path(folder) / f"convolution{len(files)}.tflite"
                _export_convolution(shape, files[shape])
            runner = litert.LiteRTModel(files[shape])
            runner.resize(geometry.height_px, geometry.width_px)
            runners[name] = runner.invoke
        whole: dict[str, Callable[[], None]] = {}
        for name, model in models.items():
            file = Path(folder) / f"{name}.tflite"
            litert.write(model, file, (height_px, width_px))
            whole[name] = litert.LiteRTModel(file).invoke
        # Apart: between the others, whole models would find every cache cold, small ones as much as large ones.
        times = {**interleaved(runners, _ROUNDS), **(interleaved(whole, 2 * _ROUNDS) if whole else {})}
        return {name: latency.best_ms for name, latency in times.items()}


def _export_convolution(geometry: Geometry, file: Path) -> None:
    image = keras.Input((geometry.height_px, geometry.width_px, geometry.inputs), batch_size=1, name="image")
    strided = max(geometry.strides) > 1
    layer = keras.layers.Conv2D(
        geometry.outputs,
        geometry.kernel,
        strides=geometry.strides,
        dilation_rate=geometry.dilation,
        padding="same",
        activation=None if strided else "relu",
    )
    signature = [keras.InputSpec(shape=image.shape, dtype="float32", name="image")]
    keras.Model(image, layer(image)).export(file, format="litert", verbose=False, input_signature=signature)


def _with(geometry: Geometry, inputs: int, outputs: int) -> Geometry:
    return Geometry(**{**vars(geometry), "inputs": inputs, "outputs": outputs})


def _with_size(geometry: Geometry, height_px: int, width_px: int) -> Geometry:
    return Geometry(**{**vars(geometry), "height_px": height_px, "width_px": width_px})
