from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from lib.anchors import AnchorSpec, anchor_grid, decode, encode, match
from lib.boxes import cxcywh_to_xyxy, iou_matrix
from tests.conftest import random_boxes

SPEC = AnchorSpec()


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 130), (251, 333), (640, 640)])
def test_grid_has_an_anchor_a_cell(height: int, width: int) -> None:
    shapes = SPEC.grid_shapes(height, width)
    assert shapes[0] == (-(-height // 4), -(-width // 4))
    assert all(b == (-(-a[0] // 2), -(-a[1] // 2)) for a, b in pairwise(shapes))
    assert len(anchor_grid(SPEC, height, width)) == sum(rows * columns for rows, columns in shapes)


def test_anchors_have_the_size_and_ratio_in_pixels() -> None:
    grid = anchor_grid(AnchorSpec(ratio=1.25), 512, 256) * [256, 512, 256, 512]
    np.testing.assert_allclose(grid[0], [2, 2, 16, 20], rtol=1e-6)
    np.testing.assert_allclose(grid[1], [6, 2, 16, 20], rtol=1e-6)
    np.testing.assert_allclose(grid[-1, 2:], [512, 640], rtol=1e-6)


def test_grid_is_shared_and_read_only() -> None:
    grid = anchor_grid(SPEC, 64, 64)
    with pytest.raises(ValueError, match="read-only"):
        grid[0] = 0


@pytest.mark.parametrize("bad", [{"strides": (4,)}, {"ratio": 0}, {"sizes": (0, 1, 2, 3, 4, 5)}])
def test_impossible_specs_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="got"):
        AnchorSpec(**bad)


def test_spec_survives_a_dict() -> None:
    spec = AnchorSpec(ratio=1.0)
    assert AnchorSpec(**spec.to_dict()) == spec


def test_decode_undoes_encode(rng: np.random.Generator) -> None:
    anchors = anchor_grid(SPEC, 128, 128)
    faces = random_boxes(rng, len(anchors), 1.0)
    np.testing.assert_allclose(decode(encode(faces, anchors), anchors), faces, atol=2e-6)


def test_zero_offsets_are_the_anchors() -> None:
    anchors = anchor_grid(SPEC, 64, 96)
    np.testing.assert_allclose(decode(np.zeros_like(anchors), anchors), cxcywh_to_xyxy(anchors), atol=1e-6)


def test_every_face_gets_an_anchor_and_good_anchors_their_best_face(rng: np.random.Generator) -> None:
    anchors = anchor_grid(SPEC, 256, 256)
    faces = random_boxes(rng, 12, 1.0)
    overlaps = iou_matrix(faces, cxcywh_to_xyxy(anchors))
    matched = match(faces, anchors)
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
    first = match(faces, anchors, 0.35, 0.3499)
    both = match(faces, anchors, 0.35, 0.1)
    wanted = (int(overlaps.max() >= 0.35) + int(overlaps.max() >= 0.5)) // 2
    added = np.flatnonzero((both >= 0) & (first < 0))
    assert len(added) == wanted > 0
    rest = overlaps[(overlaps < 0.35) & (first < 0)]
    assert overlaps[added].min() == pytest.approx(np.sort(rest)[-wanted])


def test_no_face_is_all_background() -> None:
    assert (match(np.zeros((0, 4), np.float32), anchor_grid(SPEC, 64, 64)) == -1).all()
