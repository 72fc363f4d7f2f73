from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from lib.errors import ModelError
from lib.files import read_json, write_json
from lib.pruning import CostModel, channel_sets
from lib.pruning.cost import count_macs
from lib.search.latency_table import Geometry, LatencyTable, measure_litert

SIZE = (96, 128)


def _conv(x: Any, filters: int, name: str, **options: Any) -> Any:
    return layers.Conv2D(filters, 3, padding="same", activation="relu", name=name, **options)(x)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """Three residual blocks, as EResFD's, and behind them one of its context modules, branches of branches."""
    image = keras.Input((None, None, 3))
    x = _conv(image, 8, "conv1", strides=4)
    for number, inner in enumerate((8, 12, 16)):
        x = layers.Add()([x, _conv(_conv(x, inner, f"block{number}_conv1"), 8, f"block{number}_conv2")])
        x = _conv(x, 8, f"down{number}", strides=2)
    second = _conv(x, 4, "branch2a")
    third = _conv(_conv(second, 4, "branch3a"), 4, "branch3b")
    x = layers.Concatenate()([_conv(x, 8, "branch1"), _conv(second, 4, "branch2b"), third])
    return keras.Model(image, layers.Conv2D(4, 1, name="head")(x))


def _by_macs(
    convolutions: Mapping[str, Geometry], models: Mapping[str, keras.Model], height_px: int, width_px: int
) -> dict[str, float]:
    """A machine on which a million multiply-accumulates take a millisecond, whatever they are for."""
    times = {name: count_macs(model, height_px, width_px) / 1e6 for name, model in models.items()}
    for name, item in convolutions.items():
        positions = item.height_px // item.strides[0] * item.width_px // item.strides[1]
        times[name] = positions * np.prod(item.kernel) * item.inputs * item.outputs / 1e6
    return times


@pytest.fixture(scope="module")
def file(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table of such a machine."""
    path = tmp_path_factory.mktemp("table") / "latency.json"
    LatencyTable(model, *SIZE, path, _by_macs)
    return path


def test_where_time_is_arithmetic_predictions_are_exact(
    model: keras.Model, file: Path, rng: np.random.Generator
) -> None:
    table, cost = LatencyTable(model, *SIZE, file), CostModel(model, *SIZE)
    assert table({}) == pytest.approx(cost.full.macs / 1e6)
    for _ in range(20):
        kept = {item.name: int(rng.integers(-(-item.size // 2), item.size + 1)) for item in channel_sets(model)}
        assert table(kept) == pytest.approx(cost.of(kept).macs / 1e6, rel=1e-6)


@pytest.mark.parametrize("gone", [("block0_conv1", "block2_conv1"), ("branch2a",)], ids=["blocks", "what feeds more"])
def test_a_branch_that_goes_takes_its_time_along(gone: tuple[str, ...], model: keras.Model, file: Path) -> None:
    table, cost = LatencyTable(model, *SIZE, file), CostModel(model, *SIZE)
    kept = dict.fromkeys(gone, 0)
    assert table(kept) == pytest.approx(cost.of(kept).macs / 1e6, rel=1e-6)


def test_predictions_are_bent_to_fit_whole_models(model: keras.Model, file: Path, tmp_path: Path) -> None:
    """A machine that needs 5 ms a model besides: no convolution shows them."""
    table = read_json(file)
    table["full_ms"] += 5
    for anchor in table["anchors"]:
        anchor["ms"] += 5
    write_json(tmp_path / "latency.json", table)
    cost = CostModel(model, *SIZE)
    for share in (0.25, 0.5):
        kept = {item.name: item.size - int(share * item.size) for item in channel_sets(model)}
        expected = cost.of(kept).macs / 1e6 + 5
        assert LatencyTable(model, *SIZE, tmp_path / "latency.json")(kept) == pytest.approx(expected, rel=0.02)


def test_what_goes_whole_has_a_bend_of_its_own(model: keras.Model, tmp_path: Path) -> None:
    """A machine on which thinning saves half of its arithmetic, as narrow convolutions fill no register."""
    branches = ("block0_conv1", "block1_conv1", "block2_conv1")

    def measure(*arguments: Any) -> dict[str, float]:
        times = _by_macs(*arguments)
        full = times["full"]
        for name, own in arguments[1].items():
            blocks = sum(layer.name in branches for layer in own.layers)
            if blocks == len(branches):
                times[name] = (full + times[name]) / 2
        return times

    file = tmp_path / "latency.json"
    table = LatencyTable(model, *SIZE, file, measure, branches=branches)
    cost, full = CostModel(model, *SIZE), table({})

    def thinned(share: float) -> dict[str, int]:
        return {item.name: item.size - int(share * item.size) for item in channel_sets(model)}

    without = dict.fromkeys(branches[:2], 0)
    assert table(without) == pytest.approx(cost.of(without).macs / 1e6, rel=0.02)
    assert table(thinned(0.5)) == pytest.approx((full + cost.of(thinned(0.5)).macs / 1e6) / 2, rel=0.02)
    both = thinned(0.5) | without
    left = cost.of(without).macs / 1e6
    assert table(both) == pytest.approx((left + cost.of(both).macs / 1e6) / 2, rel=0.05)
    vital = LatencyTable(model, *SIZE, tmp_path / "vital.json", _by_macs, branches=("conv1", branches[0]))
    assert len(read_json(tmp_path / "vital.json")["gone"]) < 2  # nothing works without conv1
    assert vital({branches[0]: 0}) == pytest.approx(cost.of({branches[0]: 0}).macs / 1e6, rel=0.02)
    with pytest.raises(ModelError, match=r"SEARCH\.branches; remove it"):
        LatencyTable(model, *SIZE, file, branches=branches[:1])


def test_the_table_is_measured_once(model: keras.Model, file: Path) -> None:
    def forbidden(*_: object) -> dict[str, float]:
        raise AssertionError("measured again")

    assert LatencyTable(model, *SIZE, file, forbidden)({}) > 0
    with pytest.raises(ModelError, match=r"a table of another model, input size or SEARCH\.branches; remove it"):
        LatencyTable(model, 64, 64, file, forbidden)


@pytest.mark.slow
def test_litert_times_are_positive_and_grow() -> None:
    small = Geometry((3, 3), (1, 1), (1, 1), 64, 64, 8, 8)
    large = Geometry((3, 3), (1, 1), (1, 1), 256, 256, 8, 8)
    times = measure_litert({"small": small, "large": large}, {}, 256, 256)
    assert 0 < times["small"] < times["large"]
