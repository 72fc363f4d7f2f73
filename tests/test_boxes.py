import numpy as np
import pytest

from lib.boxes import area, cxcywh_to_xyxy, iou_matrix, nms, xyxy_to_cxcywh
from tests.conftest import random_boxes


def test_formats_are_inverses(rng: np.random.Generator) -> None:
    boxes = random_boxes(rng, 50)
    np.testing.assert_allclose(cxcywh_to_xyxy(xyxy_to_cxcywh(boxes)), boxes, atol=1e-5)


def test_iou_of_known_pairs() -> None:
    a = np.array([[0, 0, 2, 2]], np.float64)
    b = np.array([[0, 0, 2, 2], [1, 0, 3, 2], [2, 2, 3, 3], [5, 5, 6, 6], [0, 0, 1, 1]], np.float64)
    np.testing.assert_allclose(iou_matrix(a, b), [[1, 1 / 3, 0, 0, 1 / 4]])


def test_iou_is_symmetric_and_of_empty_boxes_zero(rng: np.random.Generator) -> None:
    a, b = random_boxes(rng, 10), random_boxes(rng, 7)
    np.testing.assert_allclose(iou_matrix(a, b), iou_matrix(b, a).T, rtol=1e-6)
    point = np.array([[1, 1, 1, 1]], np.float32)
    assert iou_matrix(point, point)[0, 0] == 0


def test_inverted_box_has_no_area() -> None:
    assert area(np.array([3.0, 3.0, 1.0, 5.0])) == 0


def _plain_nms(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        if all(iou_matrix(boxes[i : i + 1], boxes[j : j + 1])[0, 0] <= threshold for j in kept):
            kept.append(int(i))
    return kept


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7])
def test_nms_equals_its_definition(rng: np.random.Generator, threshold: float) -> None:
    boxes, scores = random_boxes(rng, 120).astype(np.float64), rng.random(120).round(1)
    assert nms(boxes, scores, threshold, 1000).tolist() == _plain_nms(boxes, scores, threshold)


def test_nms_keeps_at_most_so_many_and_takes_nothing() -> None:
    boxes = np.array([[0, 0, 1, 1], [5, 5, 6, 6], [9, 9, 10, 10]], np.float32)
    assert nms(boxes, np.array([0.1, 0.9, 0.5]), 0.3, 2).tolist() == [1, 2]
    assert nms(np.zeros((0, 4)), np.zeros(0), 0.3, 5).tolist() == []
