import numpy as np

from lib.search.surrogate import Surrogate
from tests.search.toys import toy_space


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
