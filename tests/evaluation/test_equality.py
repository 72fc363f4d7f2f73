import keras
import numpy as np
import pytest

from lib.errors import DataError, ModelError
from lib.evaluation.equality import Equality, compare, in_double_precision, random_images, require_image_input
from tests.detectors import small_detector
from tests.networks import copy_of, lively


@pytest.fixture
def detector(rng: np.random.Generator) -> keras.Model:
    return lively(small_detector(), rng)


def test_a_model_equals_itself(detector: keras.Model) -> None:
    found = compare(detector, copy_of(detector), random_images(2, seed=0))
    assert (found.images, found.largest_difference, found.same_detections) == (2, 0.0, True)
    assert found.detections
    assert found.equal


def test_differences_are_seen(detector: keras.Model) -> None:
    other = copy_of(detector)
    bias = other.get_layer("head0_boxes").bias
    bias.assign(np.asarray(bias) + 0.5)
    found = compare(detector, other, random_images(1, seed=0))
    assert found.largest_difference == pytest.approx(0.5, abs=1e-4)
    assert not found.same_detections
    assert not found.equal


def test_any_model_can_be_compared() -> None:
    image = keras.Input((None, None, 3))
    model = keras.Model(image, keras.layers.Conv2D(2, 1)(image))
    assert compare(model, copy_of(model), random_images(1, seed=0)) == Equality(1, 0.0, None, True)
    with pytest.raises(DataError, match="without an image"):
        compare(model, model, [])


def test_images_too_small_to_detect_on_are_left_out(detector: keras.Model, caplog: pytest.LogCaptureFixture) -> None:
    small = random_images(1, 0, 15, 15)
    assert compare(detector, detector, [*small, *random_images(1, 0, 16, 16)]).images == 1
    assert "not compared on an image of 15x15 px: under 16 px" in caplog.text
    with pytest.raises(DataError, match="at least 16 px on both sides"):
        compare(detector, detector, small)


def test_random_images_are_by_the_seed() -> None:
    a, b, c = (random_images(3, seed, 16, 40) for seed in (1, 1, 2))
    assert all((x == y).all() for x, y in zip(a, b, strict=True))
    assert [image.shape for image in a] != [image.shape for image in c]
    assert all(16 <= side <= 40 for image in a for side in image.shape[:2])


def test_double_precision_is_the_same_function_with_more_digits(detector: keras.Model) -> None:
    image = random_images(1, seed=0)[0][None].astype(np.float32)
    single, double = (one(image, training=False)["boxes"] for one in (detector, in_double_precision(detector)))
    assert keras.backend.standardize_dtype(double.dtype) == "float64"
    assert 0 < np.abs(np.asarray(single) - np.asarray(double)).max() < 1e-4


@pytest.mark.parametrize("shapes", [[(64, 64, 3)], [(None, None, 1)], [(None, None, 3), (None, None, 3)]])
def test_what_cannot_be_compared_is_said_before_the_work(
    detector: keras.Model, shapes: list[tuple[int | None, ...]]
) -> None:
    inputs = [keras.Input(shape) for shape in shapes]
    model = keras.Model(inputs, [keras.layers.Conv2D(2, 1)(value) for value in inputs])
    with pytest.raises(ModelError, match=r"only models of one input of RGB images of any size.*leave the comparison"):
        require_image_input(model)
    require_image_input(detector)
