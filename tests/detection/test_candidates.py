import numpy as np
import pytest

from lib.detection.candidates import MAX_CANDIDATES, from_logits, from_scores
from lib.geometry.anchors import AnchorSpec, anchor_grid, decode

SPEC = AnchorSpec(strides=(4, 8), sizes=(16, 32))


@pytest.mark.parametrize("threshold", [0.0, 0.02, 0.5, 1.0, 1.01])
def test_logits_and_scores_give_the_same_candidates(threshold: float, rng: np.random.Generator) -> None:
    count = len(anchor_grid(SPEC, 50, 70))
    offsets = rng.normal(0, 1, (count, 4)).astype(np.float32)
    logits = rng.normal(0, 3, (count, 2)).astype(np.float32)
    logits[:3] = [(-200, 200), (200, -200), (0, 0)]  # beyond what exp can hold
    scores = (1 / (1 + np.exp((logits[:, 0] - logits[:, 1]).astype(np.float64)))).astype(np.float32)
    boxes, found = from_logits(offsets, logits, SPEC, (50, 70), threshold)
    others, same = from_scores(offsets, scores, SPEC, (50, 70), threshold)
    assert len(found) == len(same) == np.count_nonzero(scores >= threshold)
    np.testing.assert_allclose(found, same, rtol=1e-6)
    np.testing.assert_array_equal(boxes, others)
    assert (np.diff(found) <= 0).all()


def test_only_the_best_are_decoded(rng: np.random.Generator) -> None:
    count = len(anchor_grid(SPEC, 400, 400))
    offsets = rng.normal(0, 1, (count, 4)).astype(np.float32)
    scores = rng.permutation(np.linspace(0, 1, count)).astype(np.float32)
    boxes, found = from_scores(offsets, scores, SPEC, (400, 400), 0.0)
    order = np.argsort(-scores)[:MAX_CANDIDATES]
    np.testing.assert_array_equal(found, scores[order])
    np.testing.assert_array_equal(boxes, decode(offsets, anchor_grid(SPEC, 400, 400))[order])
