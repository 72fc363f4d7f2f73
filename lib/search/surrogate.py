"""A quick guess of what rates leave of the budget, for thousands of candidates at once."""

import numpy as np

from lib.arrays import FloatArray
from lib.search.space import Space

_SAMPLES_A_TERM = 4
_BISECTIONS = 16


class Surrogate:
    """A polynomial of degree two in the groups' rates, fitted to exact costs.

    Parameters and multiply-accumulates are polynomials of degree two in the channels, so for them it is exact but for
    whole channels; of milliseconds it is an approximation. Only where the search looks depends on it: what it proposes
    is solved exactly, see `Space.solve`.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        rng = np.random.default_rng(0)
        groups = len(space.names)
        terms = (groups + 1) * (groups + 2) // 2
        rates = rng.uniform(size=(_SAMPLES_A_TERM * terms, groups)) * space.max_rate
        plans = [space.counts(row) for row in rates]
        shares = np.array([space.share(plan) for plan in plans])
        self._weights = np.linalg.lstsq(_terms(np.array([space.rates(plan) for plan in plans])), shares)[0]

    def shares(self, rates: FloatArray) -> FloatArray:
        """What the rates [n, groups] leave of the budgeted quantity, [n]."""
        return _terms(rates) @ self._weights

    def onto_budget(self, rates: FloatArray, target: float) -> FloatArray:
        """Rates [n, groups] moved along their directions to where about `target` is left, see `Space.solve`."""
        directions, every = rates / self.space.max_rate, np.ones(len(rates), bool)
        most, least = (self.shares(self.space.path(directions, np.full(len(rates), end), every)) for end in (0.0, 2.0))
        held = (most >= target) & (target >= least)
        low, high = np.zeros(len(rates)), np.full(len(rates), 2.0)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            left = self.shares(self.space.path(directions, middle, held)) > target
            low, high = np.where(left, middle, low), np.where(left, high, middle)
        return self.space.path(directions, (low + high) / 2, held)


def _terms(rates: FloatArray) -> FloatArray:
    """1, the rates and their products of two: [n, groups] -> [n, terms]."""
    with_one = np.concatenate([np.ones((len(rates), 1)), rates], axis=1)
    first, second = np.triu_indices(with_one.shape[1])
    return with_one[:, first] * with_one[:, second]
