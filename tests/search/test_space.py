from collections.abc import Mapping

import numpy as np
import pytest

from lib.errors import ConfigError
from lib.pruning import ChannelSet
from lib.search.space import Space, normalized

SIZES = (8, 8, 16, 16, 16, 4, 4, 16)
SETS = [ChannelSet(f"layer{i}", size, (f"layer{i}",), ()) for i, size in enumerate(SIZES)]
GROUPS = {"stem": ("layer0", "layer1"), "body": ("layer2", "layer3", "layer4", "layer7"), "side": ("layer5", "layer6")}


def chain_share(kept: Mapping[str, int]) -> float:
    """Share of the weights of a chain of 3x3 convolutions that stay."""

    def cost(channels: list[int]) -> int:
        return sum(a * b for a, b in zip([3, *channels[:-1]], channels, strict=True))

    return cost([kept[item.name] for item in SETS]) / cost(list(SIZES))


@pytest.fixture
def space() -> Space:
    return Space(SETS, GROUPS, chain_share, tolerance=0.01)


@pytest.mark.parametrize("target", [0.9, 0.7, 0.5, 0.3, 0.1])
def test_every_direction_meets_every_target(space: Space, target: float, rng: np.random.Generator) -> None:
    directions = normalized(np.concatenate([rng.uniform(0, 1, (40, 3)), np.eye(3), np.zeros((1, 3))]))
    for direction in directions:
        kept = space.solve(direction, target)
        assert kept is not None
        assert abs(chain_share(space.by_name(kept)) - target) <= 0.01
        assert all(1 <= count <= size for count, size in zip(kept, SIZES, strict=True))


def test_the_direction_shows_in_the_rates(space: Space) -> None:
    stem, body, _ = space.rates(space.solve(np.array([0.1, 1.0, 0.5]), 0.6) or ())
    assert body > 4 * stem


def test_single_channels_bridge_a_jump() -> None:
    """Whole branches of 16 channels are far larger than the tolerance, and the path takes them whole."""
    sets = [ChannelSet(f"layer{i}", 4, (), ()) for i in range(2)]
    ends = {"a": ("layer0",), "b": ("layer1",)}
    space = Space(sets, ends, lambda kept: (kept["layer0"] + 100 * kept["layer1"]) / 404, tolerance=0.004)
    kept = space.solve(np.array([0.5, 1.0]), 0.745)
    assert kept is not None
    assert kept[1] == 3, "only what the step takes anyway was moved"


def test_rates_come_out_as_asked_for(space: Space, rng: np.random.Generator) -> None:
    """Up to one channel in a set, and closer in a group of several."""
    for rates in rng.uniform(0, 0.95, (50, 3)):
        kept = space.counts(rates)
        rate_of = {name: rate for rate, members in zip(rates, GROUPS.values(), strict=True) for name in members}
        asked = np.array([rate_of[name] for name in space.set_names])
        assert (np.abs(np.array(SIZES) * (1 - asked) - kept) < 1).all()
    sets = [ChannelSet(f"layer{i}", 4, (), ()) for i in range(20)]
    many = Space(sets, {"all": tuple(item.name for item in sets)}, lambda kept: sum(kept.values()) / 80, 0.01)
    for rate in np.linspace(0, 0.7, 15):
        assert many.rates(many.counts(np.array([rate])))[0] == pytest.approx(rate, abs=0.03)


def test_counts_fall_as_rates_rise(space: Space) -> None:
    plans = [space.counts(np.full(3, rate)) for rate in np.linspace(0, 0.98, 99)]
    assert plans[0] == SIZES
    assert (np.diff(plans, axis=0) <= 0).all()


def test_rates_of_one_plan_and_of_many(space: Space) -> None:
    plans = [(6, 6, 8, 8, 8, 3, 3, 8), SIZES]
    assert space.rates(plans[0]).tolist() == [0.25, 0.5, 0.25]
    assert space.rates(plans).tolist() == [[0.25, 0.5, 0.25], [0, 0, 0]]


def test_a_set_keeps_a_channel_unless_its_group_may_lose_branches() -> None:
    assert min(Space(SETS, GROUPS, chain_share, 0.01).counts(np.ones(3))) == 1
    space = Space(
        SETS, GROUPS, chain_share, 0.01, branches=("body",), first_to_go=("layer4", "layer2", "layer7", "layer3")
    )
    kept = space.by_name(space.counts(np.array([0.0, 0.625, 0.0])))
    assert [kept[f"layer{i}"] for i in (4, 2, 7, 3)] == [0, 0, 8, 16], "whole sets first, the last one in part"


def test_path_goes_from_nothing_to_everything(space: Space) -> None:
    direction = np.array([[0.2, 1.0, 0.0]])
    freely = np.array([False])
    rates = [space.path(direction, np.array([distance]), freely)[0] for distance in np.linspace(0, 2, 41)]
    assert rates[0].tolist() == [0, 0, 0]
    assert np.allclose(rates[20], 0.98 * direction[0])
    assert np.allclose(rates[-1], 0.98)
    assert (np.diff(rates, axis=0) >= 0).all()


def test_branches_are_held_while_the_others_meet_the_budget(rng: np.random.Generator) -> None:
    space = Space(SETS, GROUPS, chain_share, 0.02, branches=("side",))
    for whole in (0.0, 0.5, 1.0):  # of the two sets of `side` none, one, both
        for free in rng.uniform(size=(5, 2)):
            kept = space.solve(np.array([*free, whole]), 0.5)
            assert kept is not None and space.meets(kept, 0.5)
            assert kept[5:7] == {0.0: (4, 4), 0.5: (0, 4), 1.0: (0, 0)}[whole]
    least = space.share(space.counts(np.array([0.0, 0.0, 1.0])))
    kept = space.solve(np.array([0.1, 0.1, 1.0]), (1 + least) / 2)
    assert kept is not None and space.meets(kept, (1 + least) / 2), "with both gone too little would be left"
    assert sum(kept[5:7]) > 0


def test_impossible_targets_say_what_is_possible(space: Space) -> None:
    space.check(0.5)
    limited = Space(SETS, GROUPS, chain_share, 0.01, max_rate=0.3)
    with pytest.raises(ConfigError, match=r"SEARCH.target = 0.2 cannot be reached: .* 0\.4\d\d is left"):
        limited.check(0.2)
    with pytest.raises(ConfigError, match=r"within SEARCH.tolerance = 1e-06; raise the tolerance"):
        Space(SETS, GROUPS, chain_share, 1e-6).check(0.512345)


def test_unknown_branch_group_is_named() -> None:
    with pytest.raises(ConfigError, match=r"SEARCH.branches: tail: no such group"):
        Space(SETS, GROUPS, chain_share, 0.01, branches=("tail",))


@pytest.mark.parametrize("divisor", [2, 4])
def test_channels_that_stay_come_in_multiples(divisor: int, rng: np.random.Generator) -> None:
    space = Space(SETS, GROUPS, chain_share, tolerance=0.03, divisor=divisor)
    for direction in rng.uniform(size=(20, 3)):
        kept = space.solve(direction, 0.5)
        if kept is not None:
            assert not any(count % divisor for count in kept)
            assert abs(chain_share(space.by_name(kept)) - 0.5) <= 0.03
        assert not any(count % divisor for count in space.counts(0.9 * direction))


def test_so_many_channels_stay_in_every_set() -> None:
    space = Space(SETS, GROUPS, chain_share, 0.01, branches=("side",), min_channels=6)
    kept = space.counts(np.array([0.98, 0.98, 1.0]))
    assert kept == (6, 6, 6, 6, 6, 0, 0, 6)
