import cv2
import numpy as np
import pytest

from lib.data.photometric import Change, distort, draw_distortion


@pytest.fixture
def image(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)


def test_nothing_drawn_nothing_changed(image: np.ndarray) -> None:
    np.testing.assert_array_equal(distort(image, ()), image)


def test_brightness_and_contrast_saturate(image: np.ndarray) -> None:
    values = image.astype(np.float64)
    np.testing.assert_array_equal(
        distort(image, (Change("brightness", 0.1),)), np.floor(np.minimum(values + 25.5, 255))
    )
    np.testing.assert_array_equal(distort(image, (Change("contrast", 0.5),)), image // 2)


@pytest.mark.parametrize("names", [("brightness", "contrast"), ("contrast", "brightness")])
def test_one_table_does_what_two_would(image: np.ndarray, names: tuple[str, str]) -> None:
    changes = tuple(Change(name, {"brightness": -0.1, "contrast": 1.4}[name]) for name in names)
    np.testing.assert_array_equal(distort(image, changes), distort(distort(image, changes[:1]), changes[1:]))


def test_hue_turns_and_saturation_fades() -> None:
    red = np.full((4, 4, 3), (200, 0, 0), np.uint8)
    assert distort(red, (Change("hue", 18.0),))[0, 0].tolist() == [200, 60, 0]  # 18 of the 60 degrees to yellow
    assert distort(red, (Change("hue", -18.0),))[0, 0].tolist() == [200, 0, 60]
    np.testing.assert_allclose(distort(red, (Change("saturation", 0.5),))[0, 0], [200, 100, 100], atol=1)
    grey = np.full((4, 4, 3), 90, np.uint8)
    np.testing.assert_array_equal(distort(grey, (Change("hue", 10.0), Change("saturation", 1.5))), grey)


def test_hue_and_saturation_together_leave_the_value_alone(image: np.ndarray) -> None:
    changed = distort(image, (Change("saturation", 0.7), Change("hue", 12.0)))
    assert (changed != image).any()
    np.testing.assert_allclose(changed.max(axis=2), image.max(axis=2), atol=1)


def test_argument_stays_and_views_work(image: np.ndarray) -> None:
    before = image.copy()
    every = (Change("hue", 5.0), Change("contrast", 0.8), Change("saturation", 1.2), Change("brightness", 0.1))
    part = distort(image[3:15, 4:20], every)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(part, distort(image, every)[3:15, 4:20])


def test_distortion_and_nearest_scaling_commute(image: np.ndarray) -> None:
    every = (Change("contrast", 1.3), Change("hue", 5.0), Change("saturation", 0.8))
    first = cv2.resize(distort(image, every), (70, 50), interpolation=cv2.INTER_NEAREST)
    then = distort(np.asarray(cv2.resize(image, (70, 50), interpolation=cv2.INTER_NEAREST), np.uint8), every)
    # OpenCV's HSV rounds the last few columns, past its vector code, in another way.
    np.testing.assert_allclose(first, then, atol=1)


def test_draws_have_the_published_ranges_and_probabilities(rng: np.random.Generator) -> None:
    drawn = [draw_distortion(rng) for _ in range(2000)]
    for name, (low, high) in {
        "brightness": (-0.125, 0.125),
        "contrast": (0.5, 1.5),
        "saturation": (0.5, 1.5),
        "hue": (-18, 18),
    }.items():
        amounts = [change.amount for changes in drawn for change in changes if change.name == name]
        assert 900 < len(amounts) < 1100
        assert low <= min(amounts) < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < max(amounts) <= high
        firsts = sum(changes[0].name == name for changes in drawn if len(changes) == 4)
        assert 0.1 < firsts / sum(len(changes) == 4 for changes in drawn) < 0.4
    assert draw_distortion(np.random.default_rng(4)) == draw_distortion(np.random.default_rng(4))
