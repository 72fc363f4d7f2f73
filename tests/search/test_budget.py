from collections.abc import Mapping

import keras
import numpy as np
import pytest

from lib.errors import ConfigError
from lib.models import build
from lib.pruning import CostModel, channel_sets, plan
from lib.pruning.cost import zero_share
from lib.search.budget import Budget
from lib.search.groups import group_sets, patterns_of
from lib.search.space import Space


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return build("eresfd")


def test_shares_of_what_is_left(model: keras.Model, rng: np.random.Generator) -> None:
    cost = CostModel(model, 480, 640)
    kept = {item.name: int(rng.integers(1, item.size + 1)) for item in channel_sets(model)}
    assert Budget("macs", model).share(kept) == cost.of(kept).macs / cost.full.macs
    assert Budget("parameters", model).share(kept) == cost.of(kept).parameters / cost.full.parameters
    assert Budget("macs", model).share({}) == Budget("parameters", model).share({}) == 1


@pytest.mark.parametrize("mode", ["removable", "per_layer"])
def test_zeroed_counts_the_zeros(mode: str) -> None:
    model = build("eresfd")
    budget = Budget("zeroed", model, mode)  # type: ignore[arg-type]
    before = zero_share(model)
    masks = plan(model, 0.4, mode=mode)  # type: ignore[arg-type]
    for item in budget.sets:
        for name in item.convolutions:
            kernel = np.array(model.get_layer(name).kernel)
            kernel[..., list(masks.channels[item.name])] = 0
            model.get_layer(name).kernel.assign(kernel)
    kept = {item.name: item.size - len(masks.channels[item.name]) for item in budget.sets}
    assert 1 - budget.share(kept) == pytest.approx(zero_share(model) - before, abs=1e-9)


@pytest.mark.parametrize(
    ("rates", "sparsity"),
    [
        ((0.200, 0, 0.079, 0.200, 0.200, 0.172), 0.1194),
        ((0, 0, 0, 0.4, 0.4, 0.398), 0.2176),
        ((0.213, 0.045, 0.305, 0.471, 0.321, 0.448), 0.3108),
        ((0, 0, 0.383, 0.7, 0.561, 0.7), 0.4888),
        ((0.082, 0, 0.8, 0.8, 0.8, 0.164), 0.5932),
    ],
)
def test_published_rates_give_the_published_sparsity(
    model: keras.Model, rates: tuple[float, ...], sparsity: float
) -> None:
    """B-FPGM's table: its count includes the 0.09 % that are zero in the unpruned network already."""
    budget = Budget("zeroed", model, "per_layer")
    groups = group_sets(budget.sets, patterns_of("eresfd_6_files", "per_layer"))
    rate_of = {name: rate for rate, members in zip(rates, groups.values(), strict=True) for name in members}
    kept = {item.name: item.size - int(rate_of[item.name] * item.size) for item in budget.sets}
    assert 1 - budget.share(kept) + 0.0009 == pytest.approx(sparsity, abs=2e-4)


@pytest.mark.parametrize("quantity", ["macs", "parameters", "zeroed"])
@pytest.mark.parametrize("target", [0.8, 0.5])
def test_every_direction_of_eresfd_meets_the_budget(
    model: keras.Model, quantity: str, target: float, rng: np.random.Generator
) -> None:
    budget = Budget(quantity, model)  # type: ignore[arg-type]
    space = Space(budget.sets, group_sets(budget.sets, patterns_of("eresfd_6", "removable")), budget.share, 0.01)
    for direction in [*rng.uniform(size=(10, 6)), *np.eye(6)]:
        kept = space.solve(direction, target)
        assert kept is not None
        assert abs(budget.share(space.by_name(kept)) - target) <= 0.01


def test_figures(model: keras.Model) -> None:
    def milliseconds(kept: Mapping[str, int]) -> float:
        return 10.0 - len(kept) / 13

    budget = Budget("latency", model, milliseconds=milliseconds)
    kept = tuple(item.size for item in budget.sets)
    assert budget.figures(kept).parameters == 92_208
    assert budget.figures(kept).macs == CostModel(model, 480, 640).full.macs
    assert budget.figures(kept).ms == 6.0
    assert budget.share({item.name: item.size for item in budget.sets}) == 0.6
    assert Budget("macs", model).figures(kept).ms is None
    layers = Budget("zeroed", model, "per_layer")
    halves = tuple(item.size // 2 for item in layers.sets)
    assert 92_208 / 2 < layers.figures(halves).parameters < 92_208 * 0.52
    assert layers.figures(halves).macs == layers.figures(tuple(item.size for item in layers.sets)).macs


def test_branches_can_go_whole(model: keras.Model) -> None:
    budget = Budget("macs", model)
    groups = group_sets(budget.sets, patterns_of("eresfd_6", "removable"))
    space = Space(budget.sets, groups, budget.share, 0.01, branches=("stage1-3",))
    kept = space.by_name(space.solve(np.array([0.0, 0, 1, 0, 0, 0]), 0.85) or ())
    counts = [kept[name] for name in groups["stage1-3"]]
    assert counts.count(0) >= 2
    assert sum(0 < count < 16 for count in counts) <= 2


def test_what_cannot_be_is_said(model: keras.Model) -> None:
    with pytest.raises(ConfigError, match=r'SEARCH.budget = "macs" needs PRUNE.mode = "removable"'):
        Budget("macs", model, "per_layer")
    with pytest.raises(ConfigError, match="needs a table of milliseconds"):
        Budget("latency", model)
