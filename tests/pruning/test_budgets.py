"""Budgets of `plan`: met, and by no more than one channel of the cheapest set."""

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from lib.errors import ConfigError
from lib.pruning import CostModel, Masks, channel_sets, plan, scores, shrink
from lib.pruning.cost import count_macs, count_parameters
from tests.networks import nested_networks

NETWORKS = nested_networks()


def _kept(model: keras.Model, masks: Masks) -> dict[str, int]:
    return {item.name: item.size - len(masks.channels[item.name]) for item in channel_sets(model)}


def _is_full_up(model: keras.Model, masks: Masks, quantity: str, share: float, step: int = 1) -> bool:
    """Whether the budget is met, and one channel more of any set would exceed it."""
    costs, kept = CostModel(model, 16, 16), _kept(model, masks)
    allowed = share * getattr(costs.full, quantity)
    more = [{**kept, item.name: min(item.size, kept[item.name] + step)} for item in costs.sets]
    dearer = [getattr(costs.of(counts), quantity) for counts in more if counts != kept]
    return getattr(costs.of(kept), quantity) <= allowed and all(cost > allowed for cost in dearer)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("scope", ["set", "global"])
def test_a_budget_is_met_within_one_channel_of_any_set(name: str, scope: Any) -> None:
    model = NETWORKS[name]()
    for share in (0.5, 0.8):
        assert _is_full_up(model, plan(model, macs=share, scope=scope, floor=0), "macs", share)
        assert _is_full_up(model, plan(model, parameters=share, scope=scope, floor=0), "parameters", share)


def test_the_smaller_model_costs_what_the_budget_says() -> None:
    model = NETWORKS["residual, nested 1"]()
    small = shrink(model, plan(model, macs=0.5))
    assert 0.4 < count_macs(small, 16, 16) / count_macs(model, 16, 16) <= 0.5
    small = shrink(model, plan(model, parameters=0.5))
    assert 0.4 < count_parameters(small) / count_parameters(model) <= 0.5


def test_with_the_scope_set_all_sets_lose_the_same_share() -> None:
    model = _chain(20, 40)
    kept = _kept(model, plan(model, parameters=0.5))
    assert abs(kept["a"] / 20 - kept["b"] / 40) <= 1 / 20


def test_with_the_scope_global_the_lowest_of_all_go_and_every_set_keeps_its_floor() -> None:
    model = _chain(20, 20)
    given = {"a": np.arange(20.0), "b": np.arange(20.0) + 100}
    masks = plan(model, parameters=0.8, criterion=given, scope="global")
    assert masks.channels["a"] == tuple(range(len(masks.channels["a"]))) and masks.channels["a"]
    assert not masks.channels["b"]
    masks = plan(model, parameters=0.3, criterion=given, scope="global", floor=0.25)
    assert len(masks.channels["a"]) == 15
    assert masks.channels["b"]


def test_scores_are_weighed_by_what_a_channel_costs() -> None:
    model = _chain(20, 10)  # a channel of the first set has 14 parameters, one of the second 23
    given = {"a": np.full(20, 0.9), "b": np.full(10, 1.0)}
    plain = plan(model, parameters=0.9, criterion=given, scope="global")
    weighed = plan(model, parameters=0.9, criterion=given, scope="global", per="parameters")
    assert plain.channels["a"] and not plain.channels["b"]
    assert weighed.channels["b"] and not weighed.channels["a"]


def test_what_stays_is_rounded_up() -> None:
    model = _chain(20, 40)
    masks = plan(model, parameters=0.5, round_to=8)
    kept = _kept(model, masks)
    assert all(count % 8 == 0 or count == size for count, size in zip(kept.values(), (20, 40), strict=True))
    assert _is_full_up(model, masks, "parameters", 0.5, 8)


def test_a_budget_of_milliseconds_asks_whoever_knows_them() -> None:
    model = _chain(20, 20)

    def milliseconds(kept: Any) -> float:
        return 1.0 + kept.get("a", 20)

    masks = plan(model, latency=0.5, latency_of=milliseconds)
    assert _kept(model, masks) == {"a": 9, "b": 20}


def test_a_model_of_any_size_needs_one_for_macs_alone() -> None:
    image = keras.Input((None, None, 3))
    model = keras.Model(image, layers.Conv2D(2, 1)(layers.Conv2D(8, 3, padding="same", name="a")(image)))
    with pytest.raises(ConfigError, match=r"images of any size; give size_px"):
        plan(model, macs=0.5)
    assert len(plan(model, macs=0.5, size_px=(32, 32)).channels["a"]) == 4
    assert plan(model, parameters=0.5).channels["a"]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({}, "one of rates"),
        ({"rates": 0.5, "macs": 0.5}, "one of rates"),
        ({"macs": 0.5, "parameters": 0.5}, "one of rates"),
        ({"macs": 0.0}, "above 0 and at most 1"),
        ({"macs": float("nan")}, "above 0"),
        ({"macs": 1.5}, "at most 1"),
        ({"macs": 0.5, "scope": "all"}, "'set' or 'global'"),
        ({"macs": 0.5, "floor": 2.0}, "floor"),
        ({"macs": 0.5, "per": "macs"}, "needs scope='global'"),
        ({"macs": 0.5, "scope": "global", "per": "bytes"}, "per must be"),
        ({"latency": 0.5}, "go together"),
        ({"macs": 0.5, "latency_of": len}, "go together"),
        ({"macs": 0.5, "mode": "per_layer"}, "removable"),
        ({"macs": 0.5, "criterion": {"x": np.ones(2)}}, "no such set; known: a, b"),
        ({"macs": 0.5, "criterion": {"a": np.ones(2)}}, "a needs 20 finite scores"),
        ({"macs": 0.001}, r"cannot be met: .*\d is left, most of it in "),
        ({"parameters": 0.3, "scope": "global", "floor": 0.9}, "cannot be met"),
    ],
)
def test_unfit_budgets(how: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(_chain(20, 20), **how)


def test_a_model_without_channels_that_can_go_says_why() -> None:
    image = keras.Input((4, 4, 3))
    with pytest.raises(ConfigError, match=r"no channel can be taken out .*head: reaches the output"):
        plan(keras.Model(image, layers.Conv2D(2, 1, name="head")(image)), 0.5)


def test_scores_are_a_criterion() -> None:
    model = _chain(6, 8)
    assert plan(model, 0.5, scores(model, "l1")) == plan(model, 0.5, "l1")


def _chain(first: int, second: int) -> keras.Model:
    x = image = keras.Input((4, 4, 3))
    x = layers.Conv2D(first, 1, activation="relu", name="a")(x)
    x = layers.Conv2D(second, 1, activation="relu", name="b")(x)
    return keras.Model(image, layers.Conv2D(2, 1, name="head")(x))
