import numpy as np

from lib.geometry.boxes import area, cxcywh_to_xyxy, iou_matrix, xyxy_to_cxcywh
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
