import numpy as np
import pytest

from lib.arrays import FloatArray, IntArray
from lib.geometry.anchors import AnchorSpec, anchor_grid
from lib.geometry.assignment import assign, overlaps
from lib.geometry.boxes import cxcywh_to_xyxy, iou_matrix
from tests.conftest import random_boxes

SPEC = AnchorSpec()


def _dense(faces: FloatArray, spec: AnchorSpec, height: int, width: int, positive: float, second: float) -> IntArray:
    """The two stages written down from the whole matrix of faces x anchors."""
    table = iou_matrix(faces, cxcywh_to_xyxy(anchor_grid(spec, height, width)))
    matched = np.full(table.shape[1], -1, np.int64)
    best_iou, best_face = table.max(axis=0), table.argmax(axis=0)
    matched[best_iou >= positive] = best_face[best_iou >= positive]
    for face, row in enumerate(table):
        matched[row.argmax()] = face
    count = (np.count_nonzero(table.max(axis=1) >= positive) + np.count_nonzero(table.max(axis=1) >= 0.5)) // 2
    free = [i for i in range(len(matched)) if matched[i] < 0 and second < best_iou[i] < positive]
    for anchor in sorted(free, key=lambda i: -best_iou[i])[:count]:
        matched[anchor] = best_face[anchor]
    return matched


def _scattered(rng: np.random.Generator, count: int, height: int, width: int) -> FloatArray:
    """Faces of 1 to 700 px, some beyond the input, some twice; half of the time in whole px, for equal overlaps."""
    size = np.exp(rng.uniform(0, np.log(700), (count, 2)))
    centre = rng.uniform(-20, [width + 20, height + 20], (count, 2))
    boxes = np.concatenate([centre - size / 2, centre + size / 2], axis=1)
    if rng.random() < 0.5:
        boxes = np.round(boxes)
    boxes[rng.random(count) < 0.1] = boxes[0]
    return (boxes / [width, height, width, height]).astype(np.float32)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("positive", "second"), [(0.35, 0.1), (0.5, 0.4), (0.2, 0.01)])
def test_the_same_as_from_the_whole_matrix(seed: int, positive: float, second: float) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(4):
        scales = ((1.0,), (1.0, 0.5), (0.5, 1.0, 2.0))[rng.integers(3)]
        spec = AnchorSpec(ratio=float(rng.choice([1.0, 1.25])), scales=scales)
        height, width = rng.choice([64, 96, 251, 333], 2).tolist()
        faces = _scattered(rng, int(rng.integers(1, 40)), height, width)
        wanted = _dense(faces, spec, height, width, positive, second)
        np.testing.assert_array_equal(assign(faces, spec, height, width, positive, second), wanted)


def test_overlaps_are_those_of_the_matrix(rng: np.random.Generator) -> None:
    faces = _scattered(rng, 30, 256, 320)
    table = iou_matrix(faces, cxcywh_to_xyxy(anchor_grid(SPEC, 256, 320)))
    pairs = overlaps(faces, SPEC, 256, 320, 0.2)
    np.testing.assert_array_equal(pairs.iou, table[pairs.face, pairs.anchor])
    found = np.zeros_like(table, np.bool_)
    found[pairs.face, pairs.anchor] = True
    assert found[table >= 0.2].all()
    assert found.sum() == len(pairs.face) < table.size / 20
    np.testing.assert_array_equal(pairs.best_per_face(30)[1], table.max(axis=1))


def test_every_face_gets_an_anchor_and_good_anchors_their_best_face(rng: np.random.Generator) -> None:
    anchors = anchor_grid(SPEC, 256, 256)
    faces = random_boxes(rng, 12, 1.0)
    overlaps = iou_matrix(faces, cxcywh_to_xyxy(anchors))
    matched = assign(faces, SPEC, 256, 256)
    assert set(range(12)) - set(matched.tolist()) <= {
        face for face in range(12) if (overlaps.argmax(axis=1) == overlaps[face].argmax()).sum() > 1
    }
    good = np.flatnonzero(overlaps.max(axis=0) >= 0.35)
    forced = set(overlaps.argmax(axis=1).tolist())
    assert all(matched[i] == overlaps[:, i].argmax() for i in good if i not in forced)


def test_second_stage_adds_the_best_of_the_rest() -> None:
    anchors = anchor_grid(SPEC, 256, 256)
    faces = np.array([[0.4, 0.4, 0.46, 0.475]], np.float32)  # 15 x 19 px: one anchor fits well, its neighbours do not
    overlaps = iou_matrix(faces, cxcywh_to_xyxy(anchors))[0]
    first = assign(faces, SPEC, 256, 256, 0.35, 0.3499)
    both = assign(faces, SPEC, 256, 256, 0.35, 0.1)
    wanted = (int(overlaps.max() >= 0.35) + int(overlaps.max() >= 0.5)) // 2
    added = np.flatnonzero((both >= 0) & (first < 0))
    assert len(added) == wanted > 0
    rest = overlaps[(overlaps < 0.35) & (first < 0)]
    assert overlaps[added].min() == pytest.approx(np.sort(rest)[-wanted])


def test_no_face_is_all_background() -> None:
    assert (assign(np.zeros((0, 4), np.float32), SPEC, 64, 64) == -1).all()
