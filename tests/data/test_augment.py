import cv2
import numpy as np
import pytest

from lib.data.augment import (
    Recipe,
    Sample,
    anchor_sample,
    crop,
    mirror,
    photometric,
    random_crop,
    resize,
    training_sample,
    validation_sample,
)

MARK = (250, 5, 5)


def _sample(height: int = 80, width: int = 120) -> Sample:
    """A dark image with red rectangles where the faces are."""
    image = np.full((height, width, 3), 20, np.uint8)
    boxes = np.array([[10, 20, 30, 50], [70, 10, 110, 60]], np.float32)
    for x1, y1, x2, y2 in boxes.astype(int).tolist():
        image[y1:y2, x1:x2] = MARK
    return Sample(image, boxes)


def _marked(sample: Sample) -> list[list[int]]:
    """Boxes of the red regions, found in the pixels."""
    red = (sample.image[..., 0] > 130).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(red)
    return sorted([x, y, x + w, y + h] for x, y, w, h, _ in stats[1:].tolist())


def test_mirror_is_its_own_inverse_and_moves_boxes_with_pixels() -> None:
    sample = _sample()
    mirrored = mirror(sample)
    assert _marked(mirrored) == sorted(mirrored.boxes_xyxy_px.astype(int).tolist())
    twice = mirror(mirrored)
    np.testing.assert_array_equal(twice.image, sample.image)
    np.testing.assert_array_equal(twice.boxes_xyxy_px, sample.boxes_xyxy_px)


def test_crop_keeps_faces_whose_centre_is_inside_and_cuts_them() -> None:
    cropped = crop(_sample(), 15, 10, 60, 60)
    np.testing.assert_array_equal(cropped.boxes_xyxy_px, [[0, 10, 15, 40]])
    assert cropped.image.shape == (60, 60, 3)
    assert len(crop(_sample(), 0, 0, 5, 5).boxes_xyxy_px) == 0


def test_resize_moves_boxes_with_pixels_and_drops_tiny_faces() -> None:
    half = resize(_sample(), 160, 60, cv2.INTER_NEAREST)
    assert _marked(half) == sorted(half.boxes_xyxy_px.astype(int).tolist())
    tiny = resize(_sample(), 8, 12, cv2.INTER_AREA)
    assert len(tiny.boxes_xyxy_px) == 0


@pytest.mark.parametrize("aspect", [1.0, 0.5, 2.0])
def test_random_crops_have_the_aspect_and_stay_inside(rng: np.random.Generator, aspect: float) -> None:
    for _ in range(50):
        cropped = random_crop(_sample(), aspect, 0.3, rng)
        h, w = cropped.image.shape[:2]
        assert abs(h - aspect * w) <= 1 + aspect
        assert (cropped.boxes_xyxy_px >= 0).all()
        assert (cropped.boxes_xyxy_px <= [w, h, w, h]).all()


def test_anchor_sampling_brings_a_face_to_an_anchors_size(rng: np.random.Generator) -> None:
    recipe = Recipe(200, 160, anchor_sizes=(16, 32, 64))
    sizes = []
    for _ in range(200):
        sampled = anchor_sample(_sample(), recipe, cv2.INTER_AREA, rng)
        assert sampled.image.shape == (200, 160, 3)
        assert (sampled.boxes_xyxy_px >= 0).all()
        assert (sampled.boxes_xyxy_px <= [160, 200, 160, 200]).all()
        whole = [b for b in sampled.boxes_xyxy_px if (b[:2] > 1).all() and (b[2:] < [159, 199]).all()]
        sizes += [float(np.sqrt((b[2] - b[0]) * (b[3] - b[1]))) for b in whole]
        for box in whole:
            assert any(np.abs(np.array(mark) - box).max() <= 2 for mark in _marked(sampled) or [box])
    assert len(sizes) > 150
    assert min(sizes) < 10
    assert max(sizes) > 60


def test_anchor_sampling_keeps_the_chosen_face(rng: np.random.Generator) -> None:
    sample = _sample()
    alone = Sample(sample.image, sample.boxes_xyxy_px[1:])
    for _ in range(100):
        assert len(anchor_sample(alone, Recipe(128, 128, anchor_sizes=(16, 32)), cv2.INTER_LINEAR, rng).boxes_xyxy_px)


def test_photometric_leaves_boxes_and_argument_alone(rng: np.random.Generator) -> None:
    sample = _sample()
    before = sample.image.copy()
    changed = [photometric(sample, rng) for _ in range(20)]
    np.testing.assert_array_equal(sample.image, before)
    assert any((c.image != before).any() for c in changed)
    assert all(c.boxes_xyxy_px is sample.boxes_xyxy_px for c in changed)
    assert all(c.image.dtype == np.uint8 and c.image.shape == before.shape for c in changed)


def test_whole_recipe_is_a_function_of_its_generator() -> None:
    first = training_sample(_sample(), Recipe(64, 96), np.random.default_rng(5))
    again = training_sample(_sample(), Recipe(64, 96), np.random.default_rng(5))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.boxes_xyxy_px, again.boxes_xyxy_px)
    assert first.image.shape == (64, 96, 3)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (160, 120), (100, 300)])
def test_validation_shows_the_whole_image(height: int, width: int) -> None:
    shown = validation_sample(_sample(), height, width)
    assert shown.image.shape == (height, width, 3)
    np.testing.assert_allclose(_marked(shown), sorted(shown.boxes_xyxy_px.tolist()), atol=1.5)


@pytest.mark.parametrize("size", [(16, 16), (1, 500), (500, 1)])
def test_odd_images_and_no_faces_work(rng: np.random.Generator, size: tuple[int, int]) -> None:
    sample = Sample(np.zeros((*size, 3), np.uint8), np.zeros((0, 4), np.float32))
    assert training_sample(sample, Recipe(32, 32), rng).image.shape == (32, 32, 3)
    assert validation_sample(sample, 32, 32).boxes_xyxy_px.shape == (0, 4)
