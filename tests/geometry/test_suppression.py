import numpy as np
import pytest

from lib.arrays import FloatArray, IntArray
from lib.geometry import suppression
from lib.geometry.boxes import area
from lib.geometry.suppression import best_first, best_passing, in_whole_px, nms, vote


def random_detections(seed: int, count: int, side: float = 30) -> FloatArray:
    """float32 [count, 5] with many equal scores, and some boxes of no size."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 100, (count, 2))
    sizes = np.maximum(rng.uniform(-1, side, (count, 2)), 0)
    scores = rng.integers(1, 60, (count, 1)) / 60
    return np.concatenate([corners, corners + sizes, scores], axis=1).astype(np.float32)


def nms_one_by_one(boxes: FloatArray, scores: FloatArray, threshold: float, limit: int) -> list[int]:
    kept: list[int] = []
    for i in best_first(scores).tolist():
        sides = np.minimum(boxes[i, 2:], boxes[kept, 2:]) - np.maximum(boxes[i, :2], boxes[kept, :2])
        common = np.maximum(sides, 0).prod(axis=1)
        if np.all(common <= threshold * (area(boxes[i]) + area(boxes[kept]) - common)):
            kept.append(i)
    return kept[:limit]


def vote_one_by_one(detections: FloatArray, keep_lone: bool) -> FloatArray:
    left = detections[best_first(detections[:, 4])].astype(np.float64)
    voted = []
    while len(left):
        sides = np.minimum(left[0, 2:4], left[:, 2:4]) - np.maximum(left[0, :2], left[:, :2]) + 1
        common = np.maximum(sides, 0).prod(axis=1)
        areas = (left[:, 2:4] - left[:, :2] + 1).prod(axis=1)
        group = common / (areas[0] + areas - common) >= 0.3
        members, left = left[group], left[~group]
        if len(members) > 1 or keep_lone:
            voted.append([*np.average(members[:, :4], axis=0, weights=members[:, 4]), members[0, 4]])
    return np.asarray(voted, np.float64).reshape(-1, 5)


@pytest.mark.parametrize("values", [1, 2, 40, 10**6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_of_equal_scores_the_earlier_comes_first(values: int, dtype: type) -> None:
    rng = np.random.default_rng(values)
    for count in (0, 1, 2, 5000):
        scores: FloatArray = (rng.integers(-values, values, count) / values).astype(dtype)
        scores[: count // 9] = -0.0
        assert best_first(scores).tolist() == sorted(range(count), key=lambda i: (-scores[i], i))


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 900])
@pytest.mark.parametrize("limit", [1, 40, 750])
def test_nms_is_the_greedy_one(count: int, limit: int) -> None:
    detections = random_detections(count, count)
    boxes, scores = detections[:, :4], detections[:, 4]
    assert nms(boxes, scores, 0.3, limit).tolist() == nms_one_by_one(boxes, scores, 0.3, limit)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 1 / 3, 1.0])
def test_compiled_nms_and_numpy_are_equal(dtype: type, threshold: float) -> None:
    if not suppression.COMPILED:
        pytest.skip("the extension is not built: cd tools/ap_eval && python setup.py build_ext --inplace")
    for count, limit in ((0, 5), (1, 5), (600, 750), (600, 30), (600, 0)):
        detections: np.ndarray = random_detections(count, count).astype(dtype)
        detections[: count // 3, :4] = np.round(detections[: count // 3, :4] / 8)  # overlaps at the very threshold
        boxes = detections[best_first(detections[:, 4]), :4]
        expected = suppression.nms_numpy(boxes, threshold, limit)
        found = nms(boxes, np.zeros(count, dtype), threshold, limit)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_compiled_nms_and_numpy_are_equal_for_boxes_of_all_sizes(dtype: type) -> None:
    for seed in range(30):
        rng = np.random.default_rng(seed)
        corners = rng.normal(0, 10.0 ** rng.integers(-3, 4), (800, 2))
        sides = np.exp(rng.normal(0, 3, (800, 2))) * rng.choice([0, 1], (800, 1), p=[0.1, 0.9])
        boxes: np.ndarray = np.concatenate([corners, corners + sides], axis=1).astype(dtype)
        expected = suppression.nms_numpy(boxes, 0.3, 500)
        np.testing.assert_array_equal(nms(boxes, np.zeros(800, dtype), 0.3, 500), expected)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 3e38, -3e38])
@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_compiled_nms_and_numpy_are_equal_for_boxes_that_are_none(odd: float, threshold: float) -> None:
    boxes = random_detections(3, 200)[:, :4]
    boxes[[7, 70, 150], [0, 1, 2]] = odd
    boxes[20] = boxes[20, [2, 3, 0, 1]]  # corners exchanged
    with np.errstate(all="ignore"):
        expected = suppression.nms_numpy(boxes, threshold, 750)
        np.testing.assert_array_equal(nms(boxes, np.zeros(200, np.float32), threshold, 750), expected)


def test_nms_keeps_boxes_of_no_size_and_those_at_the_threshold() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5], [3, 3, 3, 3], [3, 3, 3, 3], [0, 0, 10, 6]], np.float32)
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5], np.float32)
    assert nms(boxes, scores, 0.5, 10).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("count", [0, 1, 30, 256, 700])
@pytest.mark.parametrize("keep_lone", [True, False])
def test_vote_is_the_one_by_one_vote(count: int, keep_lone: bool) -> None:
    detections = random_detections(count, count, side=8)
    expected = vote_one_by_one(detections, keep_lone)
    for limit in (3, 10_000):
        voted = vote(detections, max_output=limit, keep_lone=keep_lone)
        assert voted.dtype == np.float32
        np.testing.assert_allclose(voted, expected[:limit], rtol=1e-6)


def test_vote_weighs_corners_by_score_and_keeps_the_best_score() -> None:
    pair = np.array([[0, 0, 9, 9, 0.2], [2, 0, 11, 9, 0.6]])
    np.testing.assert_allclose(vote(pair), [[1.5, 0, 10.5, 9, 0.6]], rtol=1e-6)


def test_vote_counts_the_last_pixel() -> None:
    # 10 x 10 and 10 x 3 px with the + 1: IoU exactly 0.3; without it 9 x 9 and 9 x 2, IoU 0.22.
    pair = np.array([[0, 0, 9, 9, 0.9], [0, 0, 9, 2, 0.8]])
    assert len(vote(pair)) == 1


def test_vote_does_not_move_a_lone_box() -> None:
    lone = np.array([[0.1, 0.7, 9.3, 9.9, 0.3]], np.float32)
    np.testing.assert_array_equal(vote(lone), lone)
    assert vote(lone, keep_lone=False).shape == (0, 5)


def best_passing_by_sorting(scores: FloatArray, threshold: float, limit: int) -> IntArray:
    passing = np.flatnonzero(scores >= threshold)
    return np.sort(passing[best_first(scores[passing])[:limit]])


@pytest.mark.parametrize("limit", [1, 10, 99, 1000])
def test_best_passing_prefers_the_earlier_of_equal_scores(limit: int) -> None:
    scores = np.random.default_rng(limit).integers(0, 12, 500).astype(np.float32) / 12
    np.testing.assert_array_equal(best_passing(scores, 0.25, limit), best_passing_by_sorting(scores, 0.25, limit))
    assert not len(best_passing(scores, 2.0, limit))


def test_boxes_are_cut_to_whole_pixels() -> None:
    boxes = np.array([[10.9, -0.9, 15.8, 3.2], [1.5, 2.5, 4.4, 5.6]], np.float32)
    np.testing.assert_array_equal(in_whole_px(boxes), [[10, 0, 14, 4], [1, 2, 3, 5]])
