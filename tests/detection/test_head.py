import keras
import numpy as np
import pytest

from lib.detection import head
from lib.errors import ModelError
from lib.geometry.anchors import AnchorSpec, anchor_grid, decode, decode_points
from lib.geometry.scores import margins, probabilities
from lib.models.yunet import yunet
from tests.detectors import random_dsfd, small_detector

SPECS = (
    AnchorSpec(),
    AnchorSpec(ratio=1.5, scales=(1.0, 0.5), code="corners"),
    AnchorSpec((8, 16, 32), (8, 16, 32), 1.0, code="plain", place=0.0, scoring="geometric mean", landmarks=5),
)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize(("height", "width"), [(128, 256), (16, 17), (333, 500), (131, 97)])
def test_the_grid_is_that_of_the_geometry(spec: AnchorSpec, height: int, width: int) -> None:
    grid = head.anchor_grid(spec, keras.ops.array(height, "int32"), keras.ops.array(width, "int32"))
    np.testing.assert_allclose(grid, anchor_grid(spec, height, width), rtol=1e-6)


@pytest.mark.parametrize("spec", SPECS)
def test_boxes_are_those_of_the_geometry(spec: AnchorSpec, rng: np.random.Generator) -> None:
    anchors = anchor_grid(spec, 60, 90)
    offsets = rng.normal(0, 20, (2, len(anchors), 4)).astype(np.float32)  # sizes beyond the limit among them
    expected = decode(offsets, anchors, spec.code)
    np.testing.assert_allclose(head.decode(offsets, anchors, spec.code), expected, rtol=1e-4, atol=1e-4)


def test_landmarks_are_those_of_the_geometry(rng: np.random.Generator) -> None:
    anchors = anchor_grid(SPECS[-1], 60, 90)
    offsets = rng.normal(0, 2, (2, len(anchors), 10)).astype(np.float32)
    expected = decode_points(offsets, anchors).reshape(2, -1, 10)
    np.testing.assert_allclose(head.decode_points(offsets, anchors), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("spec", SPECS)
def test_scores_are_those_of_the_geometry(spec: AnchorSpec, rng: np.random.Generator) -> None:
    logits = rng.normal(0, 20, (50, 2)).astype(np.float32)
    leads = head.margins(logits, spec.scoring)
    np.testing.assert_allclose(leads, margins(logits, spec.scoring), rtol=1e-5, atol=1e-6)
    expected = probabilities(margins(logits, spec.scoring), spec.scoring)
    np.testing.assert_allclose(head.probabilities(leads, spec.scoring), expected, rtol=1e-4, atol=1e-7)


def test_a_yunets_landmarks_and_scores_are_exported(rng: np.random.Generator) -> None:
    model = yunet(stages=(4, 4, 6, 6, 6, 8))
    image = rng.uniform(0, 255, (1, 70, 64, 3)).astype(np.float32)
    expected, outputs = model(image, training=False), head.exportable(model, (70, 64))(image)
    logits = np.asarray(expected["scores"])
    scores = probabilities(margins(logits[0], "geometric mean"), "geometric mean")
    np.testing.assert_allclose(np.asarray(outputs["scores"])[0], scores, atol=1e-6)
    np.testing.assert_allclose(outputs["landmarks"], expected["landmarks"], atol=1e-5)


def test_what_is_exported_gives_offsets_and_probabilities(rng: np.random.Generator) -> None:
    model = small_detector()
    image = rng.uniform(0, 255, (1, 48, 64, 3)).astype(np.float32)
    expected, outputs = model(image, training=False), head.exportable(model, (48, 64))(image)
    np.testing.assert_allclose(outputs["boxes"], expected["boxes"], atol=1e-5)
    np.testing.assert_allclose(outputs["scores"], keras.ops.softmax(expected["scores"])[..., 1], atol=1e-6)


def test_of_two_shots_the_second_is_exported() -> None:
    exported = head.exportable(random_dsfd(), None)
    assert set(exported.output) == {"boxes", "scores"}
    assert not [weight.path for weight in exported.weights if "moving" in weight.path]


def test_what_is_no_detector_is_refused() -> None:
    image = keras.Input((None, None, 3))
    with pytest.raises(ModelError, match="no face detector"):
        head.exportable(keras.Model(image, keras.layers.ReLU()(image)), None)
