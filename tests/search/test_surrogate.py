import numpy as np

from lib.search.space import Space
from lib.search.surrogate import Surrogate
from tests.search.toys import GROUPS, SETS, chain_share, toy_space


def test_points_come_onto_the_budget(rng: np.random.Generator) -> None:
    space = toy_space()
    rates = Surrogate(space).onto_budget(rng.uniform(size=(100, 6)), 0.6)
    left = np.array([space.share(space.counts(row)) for row in rates])
    assert np.abs(left - 0.6).max() < 0.05
    assert np.abs(left - 0.6).mean() < 0.015


def test_what_is_on_the_budget_stays(rng: np.random.Generator) -> None:
    surrogate = Surrogate(toy_space())
    rates = surrogate.onto_budget(rng.uniform(size=(50, 6)), 0.6)
    assert np.allclose(surrogate.onto_budget(rates, 0.6), rates, atol=1e-3)


def test_branches_keep_their_rates_where_the_others_can_meet_the_budget(rng: np.random.Generator) -> None:
    space = Space(SETS, GROUPS, chain_share, 0.01, branches=("f",))
    surrogate, points = Surrogate(space), rng.uniform(size=(100, 6))
    rates = surrogate.onto_budget(points, 0.4)
    kept = np.isclose(rates[:, 5], points[:, 5])
    assert kept.mean() > 0.8
    assert np.abs(surrogate.shares(rates) - 0.4).max() < 1e-3
