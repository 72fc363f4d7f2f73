import numpy as np
import pytest

from lib.pruning.criteria import CRITERIA, combined, fpgm, l1, l2, lowest


def test_fpgm_equals_its_definition(rng: np.random.Generator) -> None:
    kernel = rng.normal(size=(3, 3, 5, 7))
    filters = kernel.reshape(-1, 7).T
    expected = np.array([sum(float(np.linalg.norm(f - g)) for g in filters) for f in filters])
    np.testing.assert_allclose(fpgm(kernel), expected, rtol=1e-9)


def test_fpgm_prunes_the_middle_not_the_small() -> None:
    kernel = np.array([0.0, 9.0, 10.0, 11.0, 30.0]).reshape(1, 1, 1, 5)
    assert fpgm(kernel).argmin() == 2
    assert l1(kernel).argmin() == 0


@pytest.mark.parametrize("criterion", CRITERIA)
def test_scores_follow_a_permutation_of_filters(rng: np.random.Generator, criterion: str) -> None:
    kernel, order = rng.normal(size=(3, 3, 4, 9)), rng.permutation(9)
    score = CRITERIA[criterion]
    np.testing.assert_allclose(score(kernel[..., order]), score(kernel)[order], rtol=1e-9)


def test_a_layers_scale_does_not_decide_for_the_set(rng: np.random.Generator) -> None:
    a, b = rng.normal(size=(3, 3, 4, 6)), rng.normal(size=(1, 1, 9, 6))
    np.testing.assert_allclose(combined([l1(a), l1(b)]), combined([l1(a), l1(1000 * b)]))
    np.testing.assert_allclose(combined([l1(a), l1(np.zeros_like(b))]), combined([l1(a)]) / 2)


def test_ties_break_by_index() -> None:
    assert lowest(np.array([2.0, 1.0, 1.0, 1.0]), 2) == (1, 2)
    assert lowest(np.array([2.0, 1.0, 1.0, 1.0]), 0) == ()


def test_l2_is_the_norm_of_each_filter(rng: np.random.Generator) -> None:
    kernel = rng.normal(size=(3, 3, 5, 7))
    np.testing.assert_allclose(l2(kernel), [np.linalg.norm(kernel[..., j]) for j in range(7)], rtol=1e-9)
