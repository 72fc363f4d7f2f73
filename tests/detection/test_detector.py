from pathlib import Path

import keras
import numpy as np
import pytest

from lib.arrays import FloatArray
from lib.data.images import read_rgb
from lib.detection.detector import FaceDetector, as_rgb
from lib.errors import ModelError
from lib.geometry.boxes import iou_matrix
from lib.models import build, load, save
from lib.models.yunet import yunet
from tests.detectors import published_detector, small_detector
from tests.models.test_eresfd import PUBLISHED
from tests.networks import lively
from tests.shared import shared


@pytest.fixture
def lively_model(rng: np.random.Generator) -> keras.Model:
    return lively(small_detector(), rng)


@pytest.fixture
def detector(lively_model: keras.Model) -> FaceDetector:
    return FaceDetector(lively_model)


def _image(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 200), (97, 61), (128, 128)])
def test_any_size(detector: FaceDetector, rng: np.random.Generator, height: int, width: int) -> None:
    found = detector(_image(rng, height, width), score_threshold=0.0)
    assert found.dtype == np.float32
    assert found.ndim == 2
    assert found.shape[1] == 5
    assert len(found) > 0
    assert (np.diff(found[:, 4]) <= 0).all()
    overlaps = iou_matrix(found[:, :4], found[:, :4])
    assert (overlaps[~np.eye(len(found), dtype=bool)] <= 0.3 + 1e-6).all()


def test_threshold_limit_and_nothing_found(lively_model: keras.Model, rng: np.random.Generator) -> None:
    image = _image(rng, 96, 96)
    everything = FaceDetector(lively_model)(image, 0.0)
    threshold = float(np.median(everything[:, 4]))
    some = FaceDetector(lively_model)(image, threshold)
    np.testing.assert_allclose(some, everything[everything[:, 4] >= threshold], rtol=1e-5)
    few = FaceDetector(lively_model, max_detections=3)(image, 0.0)
    np.testing.assert_allclose(few, everything[:3], rtol=1e-5)
    nothing = FaceDetector(lively_model)(image, 1.0)
    assert nothing.shape == (0, 5)
    assert nothing.dtype == np.float32


def test_grey_and_alpha_have_a_clear_rule(rng: np.random.Generator) -> None:
    image = _image(rng, 32, 40)
    grey = image[..., 0]
    np.testing.assert_array_equal(as_rgb(grey), np.repeat(grey[..., None], 3, axis=2))
    np.testing.assert_array_equal(as_rgb(grey[..., None]), as_rgb(grey))
    np.testing.assert_array_equal(as_rgb(np.concatenate([image, image[..., :1]], axis=2)), image)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((32, 32, 3), np.float32), "uint8"),
        (np.zeros((32, 32, 2), np.uint8), r"got \(32, 32, 2\)"),
        (np.zeros((2, 32, 32, 3), np.uint8), r"got \(2, 32, 32, 3\)"),
        (np.zeros((15, 32, 3), np.uint8), "at least 16 px on both sides, got 32x15"),
        (np.zeros((0, 0, 3), np.uint8), "at least 16 px"),
    ],
)
def test_other_images_are_refused(image: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_rgb(image)


def test_max_side_scales_down_and_boxes_come_back_in_the_images_pixels(
    detector: FaceDetector, rng: np.random.Generator
) -> None:
    small = _image(rng, 48, 64)
    large = np.repeat(np.repeat(small, 4, axis=0), 4, axis=1)
    expected = detector(small, 0.0) * np.array([4, 4, 4, 4, 1], np.float32)
    np.testing.assert_allclose(detector(large, 0.0, max_side=64), expected, rtol=1e-3, atol=1e-2)
    np.testing.assert_array_equal(detector(small, 0.0, max_side=1000), detector(small, 0.0))
    with pytest.raises(ValueError, match="max_side"):
        detector(small, max_side=8)


def test_the_image_is_not_changed(detector: FaceDetector, rng: np.random.Generator) -> None:
    image = _image(rng, 48, 64)
    before = image.copy()
    detector(image, 0.0)
    np.testing.assert_array_equal(image, before)


def test_from_a_file_it_is_the_same(tmp_path: Path, lively_model: keras.Model, rng: np.random.Generator) -> None:
    save(lively_model, tmp_path / "m.keras")
    image = _image(rng, 80, 64)
    found = FaceDetector(lively_model)(image, 0.0)
    np.testing.assert_array_equal(FaceDetector(load(tmp_path / "m.keras"))(image, 0.0), found)
    # From a file, batch normalisation is folded into the convolutions, which rounds differently.
    np.testing.assert_allclose(FaceDetector(tmp_path / "m.keras")(image, 0.0), found, rtol=1e-3, atol=1e-2)
    with pytest.raises(ModelError, match="no such file"):
        FaceDetector(tmp_path / "absent.keras")


def _unmatched(boxes: FloatArray, others: FloatArray) -> FloatArray:
    """The boxes without a counterpart of IoU 0.99 and a score within 1e-3 among the others."""
    close = (iou_matrix(boxes[:, :4], others[:, :4]) >= 0.99) & (abs(boxes[:, 4:] - others[None, :, 4]) <= 1e-3)
    return boxes[~close.any(axis=1)]


@pytest.mark.parametrize("name", PUBLISHED)
def test_single_scale_equals_the_published_detector(name: str) -> None:
    detections = np.load(shared("golden/detections.npz"))
    detector = FaceDetector(published_detector(PUBLISHED[name][0]))
    for key in (key for key in detections if key.startswith(f"{name}|") and key.endswith("|single")):
        reference = detections[key]
        image = read_rgb(shared(f"golden/images/{key.split('|')[1]}"))
        ours = detector(image, 0.05)
        different = np.concatenate([_unmatched(reference, ours), _unmatched(ours, reference)])
        different = different[different[:, 4] >= 0.1]
        # On plain background the 50 % model gives thousands of anchors the same score to within float32's rounding of
        # the logits. Which of two overlapping ones of those comes first, and survives, is not a property of the model:
        # computed in float64 the network disagrees with the reference there, too.
        if len(different):
            _, scores = detector.candidates(image, 0.05)
            ties = [int((abs(scores - score) <= 1e-7).sum()) for score in different[:, 4]]
            assert all(count >= 5 for count in ties), f"{key}: {different}"
        assert len(different) <= 0.02 * len(reference), key
        if name != "eresfd_bfpgm_50":
            assert len(different) == 0, key


@pytest.mark.parametrize("name", ["yunet_n", "yunet_s"])
def test_yunet_finds_what_opencv_finds(name: str) -> None:
    detector = FaceDetector(build(name, weights=shared(f"weights/yunet/{name}.pth")), landmarks=True)
    detections = np.load(shared("golden/yunet_detections.npz"))
    for key in (key for key in detections if key.startswith(f"{name}|")):
        reference = detections[key]
        boxes, points = detector(read_rgb(shared(f"golden/images/{key.split('|')[1]}")), 0.3)
        assert len(boxes) == len(reference), key
        corners = np.concatenate([reference[:, :2], reference[:, :2] + reference[:, 2:4]], axis=1)
        overlap = iou_matrix(corners.astype(np.float64), boxes[:, :4].astype(np.float64))
        twin = overlap.argmax(axis=1)
        assert (overlap.max(axis=1) >= 0.99).all(), key
        assert sorted(twin) == list(range(len(boxes)))
        assert np.abs(boxes[twin, 4] - reference[:, 14]).max() <= 1e-3
        assert np.abs(points[twin] - reference[:, 4:14].reshape(-1, 5, 2)).max() <= 0.1


def test_landmarks_come_in_the_images_pixels(rng: np.random.Generator) -> None:
    model = lively(yunet(stages=(4, 4, 4, 4, 4, 4)), rng)
    small = _image(rng, 48, 64)
    large = np.repeat(np.repeat(small, 2, axis=0), 2, axis=1)
    boxes, points = FaceDetector(model, landmarks=True)(small, 0.0)
    assert points.shape == (len(boxes), 5, 2)
    assert points.dtype == np.float32
    np.testing.assert_array_equal(FaceDetector(model)(small, 0.0), boxes)
    # Without suppression, which for a YuNet depends on whole pixels of the image that is given.
    _, points = FaceDetector(model, iou_threshold=1.0).faces(small, 0.0)
    _, moved = FaceDetector(model, iou_threshold=1.0).faces(large, 0.0, max_side=64)
    np.testing.assert_allclose(moved, 2 * points, rtol=1e-4, atol=1e-3)


def test_an_image_without_a_face_has_no_landmarks(rng: np.random.Generator) -> None:
    detector = FaceDetector(lively(yunet(stages=(4, 4, 4, 4, 4, 4)), rng, side_px=64), landmarks=True)
    boxes, points = detector(_image(rng, 40, 60), 1.0)
    assert boxes.shape == (0, 5)
    assert points.shape == (0, 5, 2)


def test_a_model_without_landmarks_has_none(lively_model: keras.Model, rng: np.random.Generator) -> None:
    boxes, points = FaceDetector(lively_model).faces(_image(rng, 48, 64), 0.0)
    assert points.shape == (len(boxes), 0, 2)
    with pytest.raises(ModelError, match="finds no landmarks"):
        FaceDetector(lively_model, landmarks=True)
