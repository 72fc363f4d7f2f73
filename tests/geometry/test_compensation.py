import numpy as np
import pytest

from lib.arrays import FloatArray, IntArray
from lib.geometry.anchors import AnchorSpec, anchor_grid
from lib.geometry.boxes import cxcywh_to_xyxy, iou_matrix
from lib.geometry.compensation import BACKGROUND, IGNORED, Compensation, match_compensated
from tests.conftest import random_boxes

SPEC = AnchorSpec(ratio=1.5, scales=(1.0, 0.5), code="corners")
SIZE = (256, 256)
ANCHORS = cxcywh_to_xyxy(anchor_grid(SPEC, *SIZE))


def _matched(faces: FloatArray, positive_iou: float = 0.35, **settings: float) -> IntArray:
    return match_compensated(faces, SPEC, *SIZE, positive_iou, Compensation(**settings))  # type: ignore[arg-type]


def test_every_face_gets_an_anchor_and_good_anchors_their_best_face(rng: np.random.Generator) -> None:
    faces = random_boxes(rng, 12, 1.0)
    overlaps = iou_matrix(faces, ANCHORS)
    matched = _matched(faces)
    best = overlaps.argmax(axis=1)
    assert len(set(best.tolist())) == 12
    np.testing.assert_array_equal(matched[best], np.arange(12))
    rest = np.delete(np.arange(len(matched)), best)
    good = overlaps[:, rest].max(axis=0) >= 0.35
    np.testing.assert_array_equal(matched[rest][good], overlaps[:, rest].argmax(axis=0)[good])
    assert (matched[rest][~good] == BACKGROUND).all()  # equal thresholds: nothing between them, nothing to add


@pytest.mark.parametrize("super_match", [True, False])
@pytest.mark.parametrize("wanted", [0, 3, 20])
def test_faces_are_compensated_in_the_order_of_overlap(
    rng: np.random.Generator, wanted: int, super_match: bool
) -> None:
    faces = random_boxes(rng, 12, 1.0)
    overlaps = iou_matrix(faces, ANCHORS)
    before = _matched(faces, negative_iou=0.1, average_matches=0, super_match=False)
    after = _matched(faces, negative_iou=0.1, average_matches=wanted, super_match=super_match)
    counts = np.array([(before == face).sum() for face in range(12)])
    limit = max(wanted, int(counts.mean())) if super_match else wanted
    for face in range(12):
        free = np.flatnonzero((before == IGNORED) & (overlaps.argmax(axis=0) == face))
        added = np.flatnonzero((after == face) & (before != face))
        assert len(added) == min(len(free), max(0, limit - counts[face]))
        assert set(added) <= set(free)
        left = sorted(set(free) - set(added))
        assert not len(added) or not left or overlaps[face, added].min() >= overlaps[face, left].max()
        assert (after[left] == IGNORED).all()
    np.testing.assert_array_equal(after[before >= 0], before[before >= 0])


def test_anchors_between_the_thresholds_are_ignored() -> None:
    face = np.array([[0.4, 0.4, 0.5, 0.55]], np.float32)
    overlap = iou_matrix(face, ANCHORS)[0]
    matched = _matched(face, positive_iou=0.5, negative_iou=0.3, average_matches=0, super_match=False)
    between = (overlap >= 0.3) & (overlap < 0.5)
    assert between.sum() > 3
    np.testing.assert_array_equal(matched == IGNORED, between)


def test_no_face_is_all_background() -> None:
    assert (_matched(np.zeros((0, 4), np.float32)) == BACKGROUND).all()
