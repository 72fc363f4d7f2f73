from itertools import pairwise
from typing import Any, get_args

import numpy as np
import pytest

from lib.geometry.anchors import AnchorSpec, Code, anchor_grid, decode, decode_points, encode, encode_points
from lib.geometry.boxes import cxcywh_to_xyxy
from tests.conftest import random_boxes

SPEC = AnchorSpec()
CODES: tuple[Code, ...] = get_args(Code)


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


def test_anchors_of_a_cell_follow_each_other_by_scale() -> None:
    both, large, small = (AnchorSpec(ratio=1.5, scales=scales) for scales in ((1.0, 0.5), (1.0,), (0.5,)))
    grid = anchor_grid(both, 96, 128)
    np.testing.assert_array_equal(grid[0::2], anchor_grid(large, 96, 128))
    np.testing.assert_array_equal(grid[1::2], anchor_grid(small, 96, 128))
    np.testing.assert_allclose(grid[1] * [128, 96, 128, 96], [2, 2, 8, 12], rtol=1e-6)


@pytest.mark.parametrize(
    "bad",
    [
        {"strides": (4,)},
        {"ratio": 0},
        {"sizes": (0, 1, 2, 3, 4, 5)},
        {"scales": (1.0, 0)},
        {"scales": ()},
        {"code": "polar"},
    ],
)
def test_impossible_specs_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="got"):
        AnchorSpec(**bad)


def test_spec_survives_a_dict() -> None:
    spec = AnchorSpec(ratio=1.0, scales=(1.0, 0.5), code="corners")
    assert AnchorSpec(**spec.to_dict()) == spec


@pytest.mark.parametrize("code", CODES)
def test_decode_undoes_encode(rng: np.random.Generator, code: Code) -> None:
    anchors = anchor_grid(SPEC, 128, 128)
    faces = random_boxes(rng, len(anchors), 1.0)
    np.testing.assert_allclose(decode(encode(faces, anchors, code), anchors, code), faces, atol=2e-6)


@pytest.mark.parametrize("code", CODES)
def test_zero_offsets_are_the_anchors(code: Code) -> None:
    anchors = anchor_grid(SPEC, 64, 96)
    np.testing.assert_allclose(decode(np.zeros_like(anchors), anchors, code), cxcywh_to_xyxy(anchors), atol=1e-6)


def test_boxes_are_never_inverted(rng: np.random.Generator) -> None:
    anchors = anchor_grid(SPEC, 64, 64)
    for code in CODES:
        boxes = decode(rng.normal(0, 20, anchors.shape).astype(np.float32), anchors, code)
        assert (boxes[:, 2:] >= boxes[:, :2]).all()


def test_corner_code_is_five_times_the_distance_in_anchor_sizes() -> None:
    anchor = np.array([[0.5, 0.5, 0.2, 0.4]], np.float32)
    face = np.array([[0.42, 0.3, 0.6, 0.9]], np.float32)
    np.testing.assert_allclose(encode(face, anchor, "corners"), [[0.5, 0, 0, 2.5]], atol=1e-6)


def test_landmarks_come_back_and_belong_to_the_cells() -> None:
    spec = AnchorSpec((8, 16), (8, 16), ratio=1.0, code="plain", place=0.0, landmarks=2)
    grid = anchor_grid(spec, 32, 64)
    assert (grid[5] * [64, 32, 64, 32]).tolist() == [40, 0, 8, 8]
    offsets = np.random.default_rng(0).normal(size=(len(grid), 8)).astype(np.float32)
    decoded = decode(offsets, grid, spec.code)
    centre = (decoded[:, :2] + decoded[:, 2:4]) / 2 * [64, 32]
    np.testing.assert_allclose(centre[5], [40 + 8 * offsets[5, 0], 8 * offsets[5, 1]], rtol=1e-4)
    points = decode_points(offsets[:, 4:], grid)
    np.testing.assert_array_equal(points.reshape(-1, 4), decoded[:, 4:])
    np.testing.assert_allclose(points[5] * [64, 32], [40, 0] + 8 * offsets[5, 4:].reshape(2, 2), rtol=1e-4)
    np.testing.assert_allclose(encode_points(points, grid), offsets[:, 4:], atol=1e-4)
    np.testing.assert_allclose(encode(decoded[:, :4], grid, spec.code), offsets[:, :4], atol=1e-4)


@pytest.mark.parametrize("option", [{"code": "polar"}, {"scoring": "sum"}, {"place": 2.0}, {"landmarks": -1}])
def test_descriptions_that_make_no_sense(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        AnchorSpec(**option)


@pytest.mark.parametrize("bad", [{"ratio": float("nan")}, {"ratio": 0}, {"scales": (np.inf,)}, {"strides": ("4",) * 6}])
def test_anchors_of_no_size_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be positive numbers"):
        AnchorSpec(**bad)
