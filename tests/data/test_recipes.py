from dataclasses import replace
from typing import get_args

import cv2
import numpy as np
import pytest

from lib.data.augment import MEAN_RGB, Sample
from lib.data.recipes import REACHES, Recipe, RecipeName, training_sample, validation_sample

NAMES = get_args(RecipeName)


def _sample(rng: np.random.Generator, height: int = 180, width: int = 240) -> Sample:
    image = rng.integers(0, 120, (height, width, 3), dtype=np.uint8)
    boxes = np.array([[20, 40, 60, 100], [140, 20, 220, 120]], np.float32)
    for x1, y1, x2, y2 in boxes.astype(int).tolist():
        image[y1:y2, x1:x2] = (250, 5, 5)
    return Sample(image, boxes)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_a_function_of_its_generator(rng: np.random.Generator, name: RecipeName) -> None:
    sample, recipe = _sample(rng), Recipe(64, 96, name=name)
    before = sample.image.copy()
    first = [training_sample(sample, recipe, np.random.default_rng(seed)) for seed in range(20)]
    again = [training_sample(sample, recipe, np.random.default_rng(seed)) for seed in range(20)]
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.boxes_xyxy_px, b.boxes_xyxy_px)
        assert a.image.shape == (64, 96, 3)
        assert a.image.dtype == np.uint8
    np.testing.assert_array_equal(sample.image, before)
    assert any((first[0].image != other.image).any() for other in first[1:])


@pytest.mark.parametrize("name", NAMES)
def test_boxes_lie_in_the_input_and_on_the_faces(rng: np.random.Generator, name: RecipeName) -> None:
    sample, hits = _sample(rng), 0
    for seed in range(150):
        result = training_sample(sample, Recipe(160, 128, name=name), np.random.default_rng(seed))
        assert (result.boxes_xyxy_px >= 0).all()
        assert (result.boxes_xyxy_px <= [128, 160, 128, 160]).all()
        for x1, y1, x2, y2 in result.boxes_xyxy_px.round().astype(int).tolist():
            inner = result.image[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].reshape(-1, 3)
            # Whatever the distortion, the red of a face is one colour and the noise around it is not.
            hits += len(inner) > 0 and float(inner.std(axis=0).max()) < 8
    assert hits > 100


def test_dsfd_zooms_out_yunet_reaches_beyond_and_eresfd_does_neither() -> None:
    image = np.full((200, 200, 3), 10, np.uint8)
    sample = Sample(image, np.array([[20, 20, 180, 180]], np.float32))
    grey = {}
    for name in NAMES:
        recipe = Recipe(64, 64, anchor_sampling=0, name=name)
        drawn = [training_sample(sample, recipe, np.random.default_rng(seed)).image for seed in range(100)]
        grey[name] = sum((drawing == MEAN_RGB).all(axis=2).any() for drawing in drawn) / 100
    assert grey["eresfd"] == 0
    assert 0.3 < grey["dsfd"] < 0.6
    assert 0.3 < grey["yunet"] < 0.7  # three of six sizes are larger than the image


def test_yunet_keeps_colours_and_shows_a_face_at_its_six_sizes(rng: np.random.Generator) -> None:
    sample, recipe = _sample(rng), Recipe(90, 90, anchor_sampling=0, name="yunet")
    one = Sample(sample.image, sample.boxes_xyxy_px[:1])  # 40 px wide; the short side is 180 px
    widths = []
    for seed in range(300):
        result = training_sample(one, recipe, np.random.default_rng(seed))
        assert len(result.boxes_xyxy_px) == 1
        x1, y1, x2, y2 = result.boxes_xyxy_px[0]
        assert np.abs(result.image[int(y1 + y2) // 2, int(x1 + x2) // 2].astype(int) - [250, 5, 5]).max() <= 2
        if x1 > 0 and x2 < 90:
            widths.append(x2 - x1)
    expected = [20 / share for share in REACHES]
    nearest = np.abs(np.subtract.outer(widths, expected)).argmin(axis=1)
    assert np.abs(widths - np.take(expected, nearest)).max() < 0.5
    assert np.bincount(nearest, minlength=6).min() > 10


@pytest.mark.parametrize("name", NAMES)
def test_anchor_sampling_comes_with_its_probability(
    rng: np.random.Generator, name: RecipeName, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def window(*_: object) -> np.ndarray:
        seen.append(1)
        return np.array([0.0, 0, 100, 100])

    monkeypatch.setattr("lib.data.recipes.anchor_window", window)
    sample, recipe = _sample(rng), Recipe(16, 16, anchor_sampling=0.4, name=name)
    for _ in range(500):
        training_sample(sample, recipe, rng)
    assert 150 < len(seen) < 250
    seen.clear()
    for _ in range(50):
        training_sample(Sample(sample.image, np.zeros((0, 4), np.float32)), recipe, rng)
    assert not seen


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(16, 16), (1, 500), (500, 1)])
def test_odd_images_and_no_faces_work(rng: np.random.Generator, name: RecipeName, size: tuple[int, int]) -> None:
    sample = Sample(np.zeros((*size, 3), np.uint8), np.zeros((0, 4), np.float32))
    for _ in range(30):
        assert training_sample(sample, Recipe(32, 32, name=name), rng).image.shape == (32, 32, 3)
    assert validation_sample(sample, 32, 32).boxes_xyxy_px.shape == (0, 4)


def test_landmarks_lie_where_their_faces_do(rng: np.random.Generator) -> None:
    """Here at the corners of the boxes: in the whole image, and in crops, of faces that are not cut."""
    plain = _sample(rng)
    sample = replace(plain, landmarks_px=plain.boxes_xyxy_px[:, [0, 1, 2, 1, 0, 1, 0, 3, 2, 3]].reshape(2, 5, 2))
    results = [training_sample(sample, Recipe(160, 128), np.random.default_rng(seed)) for seed in range(60)]
    whole = 0
    for result in [*results, validation_sample(sample, 90, 90)]:
        assert result.landmarks_px is not None
        for box, points in zip(result.boxes_xyxy_px, result.landmarks_px, strict=True):
            if (points >= 0).all() and (points <= [128, 160]).all():
                whole += 1
                np.testing.assert_allclose(np.concatenate([points.min(axis=0), points.max(axis=0)]), box, atol=1e-3)
                assert points[0, 0] < points[1, 0]
                assert points[3, 0] < points[4, 0]
    assert whole > 10
    assert validation_sample(plain, 90, 90).landmarks_px is None


@pytest.mark.parametrize(("height", "width"), [(90, 90), (360, 240), (100, 300)])
def test_validation_shows_the_whole_image(rng: np.random.Generator, height: int, width: int) -> None:
    shown = validation_sample(_sample(rng), height, width)
    assert shown.image.shape == (height, width, 3)
    red = ((shown.image[..., 0] > 190) & (shown.image[..., 1] < 60)).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(red)
    seen = sorted([x, y, x + w, y + h] for x, y, w, h, _ in stats[1:].tolist())
    np.testing.assert_allclose(seen, sorted(shown.boxes_xyxy_px.tolist()), atol=1.5)
