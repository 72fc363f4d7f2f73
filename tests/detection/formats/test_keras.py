from pathlib import Path

import keras
import numpy as np
import pytest

from lib.detection.detector import FaceDetector, fit
from lib.detection.formats.keras import KerasNetwork, write
from lib.errors import ModelError
from tests.detectors import of_one_size, small_detector


def test_a_model_in_memory_goes_on_learning(rng: np.random.Generator) -> None:
    model = small_detector()
    network = KerasNetwork(model)
    image = rng.integers(0, 256, (1, 32, 32, 3), np.uint8)
    before = network.candidates(image, 0.0)[0][1]
    model.get_layer("head0_scores").bias.assign([0.0, 3.0])
    assert (network.candidates(image, 0.0)[0][1] != before).any()


def test_a_file_keeps_the_model_as_it_is(tmp_path: Path) -> None:
    model = small_detector()
    write(model, tmp_path / "m.keras")
    for ours, theirs in zip(keras.saving.load_model(tmp_path / "m.keras").weights, model.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_what_is_no_detector_is_not_written(tmp_path: Path) -> None:
    image = keras.Input((None, None, 3))
    with pytest.raises(ModelError, match="no face detector"):
        write(keras.Model(image, keras.layers.ReLU()(image)), tmp_path / "m.keras")
    assert not list(tmp_path.iterdir())


def test_a_model_of_one_size_sees_images_fitted_to_it(tmp_path: Path, rng: np.random.Generator) -> None:
    model = small_detector()
    image = rng.integers(0, 256, (48, 60, 3), np.uint8)
    fitted, extent_px = fit(image, (64, 96))
    expected = FaceDetector(model)(fitted, 0.0)
    expected[:, :4] *= extent_px / (96, 64, 96, 64)
    write(of_one_size(model, 64, 96), tmp_path / "m.keras")
    detector = FaceDetector(tmp_path / "m.keras")
    assert detector.network.size_px == (64, 96)
    np.testing.assert_allclose(detector(image, 0.0), expected, rtol=1e-4, atol=1e-4)


def test_a_model_of_one_fixed_side_is_refused() -> None:
    with pytest.raises(ModelError, match=r"'small' takes \(None, 96, 3\); a face detector takes .*keras\.Input\("):
        KerasNetwork(of_one_size(small_detector(), None, 96))
