import numpy as np
import pytest

from lib.arrays import FloatArray
from lib.search.proposals import FITTED_POINTS, Proposer, _thinned, scattered

NONE = np.zeros((0, 3))
BEST = np.array([0.2, 0.7, 0.4])


def bowl(points: FloatArray) -> FloatArray:
    return ((points - BEST) ** 2).sum(axis=1)


def _proposer(beta: float | None = None) -> Proposer:
    return Proposer(np.zeros(3, bool), lambda points: points, beta=beta)


@pytest.mark.parametrize("beta", [None, 1.0])
def test_finds_the_bottom_of_a_bowl(beta: float | None) -> None:
    proposer = _proposer(beta)
    rng = np.random.default_rng(0)
    points = rng.uniform(size=(8, 3))
    assert bowl(points).min() > 0.02
    for _ in range(12):
        points = np.concatenate([points, proposer.propose(points, bowl(points), NONE, rng)[:1]])
    assert bowl(points).min() < 1e-3


@pytest.mark.parametrize("with_others", [False, True])
def test_every_second_proposal_explores(rng: np.random.Generator, with_others: bool) -> None:
    """Of those that are to be improved on: where several targets take turns, each one's proposals do so too."""
    points = rng.uniform(size=(30, 3))
    for count, explores in ((20, True), (21, False)):
        eligible = np.arange(30) < count
        shown = points if with_others else points[:count]
        taking_turns, exploring = (
            _proposer(beta).propose(
                shown, bowl(shown), NONE, np.random.default_rng(1), eligible if with_others else None
            )
            for beta in (None, 2.0)
        )
        assert np.array_equal(taking_turns, exploring) == explores


def test_proposals_are_where_they_may_be(rng: np.random.Generator) -> None:
    proposer = Proposer(np.zeros(3, bool), lambda points: points / points.sum(axis=1, keepdims=True))
    points = proposer.random(20, rng)
    proposed = proposer.propose(points, bowl(points), NONE, rng)
    assert np.allclose(points.sum(axis=1), 1)
    assert np.allclose(proposed.sum(axis=1), 1)


def test_random_points_are_of_four_kinds(rng: np.random.Generator) -> None:
    either_or = np.array([True, False, True])
    points = scattered(400, either_or, rng)
    kinds = [points[kind::4] for kind in range(4)]
    at_ends = [np.isin(kind, (0, 1)).all(axis=0) for kind in kinds]
    assert not at_ends[0].any() and not at_ends[1].any()
    assert np.array_equal(at_ends[2], either_or) and np.array_equal(at_ends[3], either_or)
    assert all(0.3 < kind[:, either_or].mean() < 0.7 for kind in kinds[2:])
    assert np.median(kinds[0][:, 1]) > 0.3 > 0.25 > np.median(kinds[1][:, 1])
    assert not np.isin(scattered(400, np.zeros(3, bool), rng), (0, 1)).any()


def test_proposals_find_which_coordinates_go_to_their_ends(rng: np.random.Generator) -> None:
    """Of six either-or coordinates two are worth all and four nothing; what lies between the ends is worth less."""
    best = np.array([1.0, 0, 1, 0, 0, 0, 0.3])

    def loss(points: FloatArray) -> FloatArray:
        return np.abs(points - best) @ np.array([1, 1, 1, 1, 1, 1, 0.5])

    proposer = Proposer(np.arange(7) < 6, lambda points: points)
    points = proposer.random(14, rng)
    for _ in range(16):
        points = np.concatenate([points, proposer.propose(points, loss(points), np.zeros((0, 7)), rng)[:1]])
    assert np.array_equal(points[loss(points).argmin()][:6], best[:6])


def test_a_restart_makes_no_difference(rng: np.random.Generator) -> None:
    """One proposer that has seen the search grow, and one that comes fresh to it."""
    points = rng.uniform(size=(30, 3))
    old, new = _proposer(), _proposer()
    for count in range(6, 30):
        old.propose(points[:count], bowl(points[:count]), NONE, np.random.default_rng(count))
    first, second = (each.propose(points, bowl(points), NONE, np.random.default_rng(7)) for each in (old, new))
    assert np.array_equal(first, second)


def test_pending_points_are_not_proposed_again(rng: np.random.Generator) -> None:
    points = rng.uniform(size=(10, 3))
    first = _proposer().propose(points, bowl(points), NONE, np.random.default_rng(1))[:1]
    second = _proposer().propose(points, bowl(points), first, np.random.default_rng(1))[:1]
    assert np.linalg.norm(first - second) > 1e-3


def test_scale_and_outliers_do_not_matter(rng: np.random.Generator) -> None:
    points = rng.uniform(size=(21, 3))  # an odd number: the turn of the one that stays near the best
    values = bowl(points)
    plain = _proposer().propose(points, values, NONE, np.random.default_rng(1))
    assert np.allclose(plain, _proposer().propose(points, 1e6 * values + 5, NONE, np.random.default_rng(1)))
    worst = np.where(values == values.max(), 1e9, values)
    assert np.linalg.norm(_proposer().propose(points, worst, NONE, np.random.default_rng(1))[0] - BEST) < 0.2


def test_equal_values_and_few_points_work(rng: np.random.Generator) -> None:
    for count in (1, 2, 5, 40):
        points = rng.uniform(size=(count, 3))
        assert np.isfinite(_proposer().propose(points, np.ones(count), NONE, rng)).all()


def test_thinning_keeps_the_best(rng: np.random.Generator) -> None:
    values = rng.normal(size=500)
    chosen = _thinned(values, FITTED_POINTS)
    assert len(set(chosen.tolist())) == FITTED_POINTS
    assert set(np.argsort(values)[: FITTED_POINTS // 2]) <= set(chosen.tolist())
    assert _thinned(values[:50], FITTED_POINTS).tolist() == list(range(50))
