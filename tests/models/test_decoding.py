import keras
import numpy as np
import pytest

from lib.geometry.anchors import AnchorSpec, anchor_grid, decode, decode_points
from lib.geometry.scores import margins, probabilities
from lib.models import decoding

SPECS = (
    AnchorSpec(),
    AnchorSpec(ratio=1.5, scales=(1.0, 0.5), code="corners"),
    AnchorSpec((8, 16, 32), (8, 16, 32), 1.0, code="plain", place=0.0, scoring="geometric mean", landmarks=5),
)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize(("height", "width"), [(128, 256), (16, 17), (333, 500), (131, 97)])
def test_the_grid_is_that_of_the_geometry(spec: AnchorSpec, height: int, width: int) -> None:
    grid = decoding.anchor_grid(spec, keras.ops.array(height, "int32"), keras.ops.array(width, "int32"))
    np.testing.assert_allclose(grid, anchor_grid(spec, height, width), rtol=1e-6)


@pytest.mark.parametrize("spec", SPECS)
def test_boxes_are_those_of_the_geometry(spec: AnchorSpec, rng: np.random.Generator) -> None:
    anchors = anchor_grid(spec, 60, 90)
    offsets = rng.normal(0, 20, (2, len(anchors), 4)).astype(np.float32)  # sizes beyond the limit among them
    expected = decode(offsets, anchors, spec.code)
    np.testing.assert_allclose(decoding.decode(offsets, anchors, spec.code), expected, rtol=1e-4, atol=1e-4)


def test_landmarks_are_those_of_the_geometry(rng: np.random.Generator) -> None:
    anchors = anchor_grid(SPECS[-1], 60, 90)
    offsets = rng.normal(0, 2, (2, len(anchors), 10)).astype(np.float32)
    expected = decode_points(offsets, anchors).reshape(2, -1, 10)
    points = decoding.decode_points(offsets, anchors)
    np.testing.assert_allclose(points, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(decoding.encode_points(points, anchors), offsets, atol=1e-4)


@pytest.mark.parametrize("spec", SPECS)
def test_scores_are_those_of_the_geometry(spec: AnchorSpec, rng: np.random.Generator) -> None:
    logits = rng.normal(0, 20, (50, 2)).astype(np.float32)
    leads = decoding.margins(logits, spec.scoring)
    np.testing.assert_allclose(leads, margins(logits, spec.scoring), rtol=1e-5, atol=1e-6)
    expected = probabilities(margins(logits, spec.scoring), spec.scoring)
    np.testing.assert_allclose(decoding.probabilities(leads, spec.scoring), expected, rtol=1e-4, atol=1e-7)
