import numpy as np
import pytest

from lib.geometry.scores import margins, probabilities


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@pytest.fixture
def logits(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(0, 4, (100, 2))


def test_softmax(logits: np.ndarray) -> None:
    exponentials = np.exp(logits)
    expected = exponentials[:, 1] / exponentials.sum(axis=1)
    np.testing.assert_allclose(probabilities(margins(logits, "softmax"), "softmax"), expected)


def test_geometric_mean(logits: np.ndarray) -> None:
    expected = np.sqrt(_sigmoid(logits[:, 0]) * _sigmoid(logits[:, 1]))
    np.testing.assert_allclose(probabilities(margins(logits, "geometric mean"), "geometric mean"), expected)


@pytest.mark.parametrize("scoring", ["softmax", "geometric mean"])
def test_no_logit_is_too_large(scoring: str) -> None:
    far = np.array([[-1e4, 1e4], [1e4, -1e4], [1e4, 1e4]], np.float32)
    with np.errstate(all="raise", under="ignore"):
        scores = probabilities(margins(far, scoring), scoring)  # type: ignore[arg-type]
    assert np.isfinite(scores).all()
    assert ((scores >= 0) & (scores <= 1)).all()
