from typing import get_args, get_type_hints

import keras
import numpy as np
import pytest

from lib.config.sections import Prune
from lib.errors import ConfigError
from lib.pruning import plan, scores
from lib.pruning.criteria import CRITERIA, NAMES, combined, fpgm, l1, l2, lamp, lowest


@pytest.mark.parametrize("count", [7, 300])
def test_fpgm_equals_its_definition(rng: np.random.Generator, count: int) -> None:
    kernel = rng.normal(size=(3, 3, 5, count))
    filters = kernel.reshape(-1, count).T
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


def test_lamp_equals_its_definition(rng: np.random.Generator) -> None:
    kernel = rng.normal(size=(3, 3, 5, 7))
    squares = [float((kernel[..., j] ** 2).sum()) for j in range(7)]
    expected = [square / sum(other for other in squares if other >= square) for square in squares]
    np.testing.assert_allclose(lamp(kernel), expected, rtol=1e-9)
    assert not lamp(np.zeros((1, 1, 2, 3))).any()


def test_the_config_knows_every_criterion() -> None:
    assert set(get_args(get_type_hints(Prune)["criterion"])) == set(NAMES)


def small_model(scale: bool = True) -> keras.Model:
    inputs = keras.Input((6, 6, 3))
    x = keras.layers.Conv2D(5, 3, name="first")(inputs)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(scale=scale, name="norm")(x))
    return keras.Model(inputs, keras.layers.Conv2D(2, 3, name="head")(x))


def test_gamma_scores_by_the_size_of_the_scale() -> None:
    model = small_model()
    gamma = np.array([0.5, -3.0, 0.1, 1.0, -0.2])
    model.get_layer("norm").gamma.assign(gamma)
    np.testing.assert_allclose(scores(model, "gamma")["first"], np.abs(gamma) / np.abs(gamma).mean(), rtol=1e-6)
    assert plan(model, 0.4, "gamma").channels["first"] == (2, 4)


def test_gamma_names_a_set_without_one() -> None:
    model = small_model(scale=False)
    assert scores(model, "gamma") == {}
    with pytest.raises(ConfigError, match=r"first runs through no batch normalisation.*another criterion"):
        plan(model, 0.4, "gamma")
    assert plan(model, 0.0, "gamma").channels["first"] == ()


def test_a_function_is_a_criterion() -> None:
    model = small_model()
    kernel = np.asarray(model.get_layer("first").kernel)
    largest = np.abs(kernel).max(axis=(0, 1, 2))

    def peak(filters: np.ndarray) -> np.ndarray:
        return np.abs(filters).max(axis=tuple(range(filters.ndim - 1)))

    np.testing.assert_allclose(scores(model, peak)["first"], largest / largest.mean(), rtol=1e-6)
    assert plan(model, 0.4, peak).channels["first"] == tuple(sorted(np.argsort(largest)[:2].tolist()))


@pytest.mark.parametrize("wrong", [lambda filters: filters, lambda filters: np.full(filters.shape[-1], np.nan)])
def test_a_function_must_score_every_filter(wrong) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match="must give first 5 finite numbers"):
        plan(small_model(), 0.4, wrong)
