import keras
import numpy as np
import pytest

from lib.models import inference_model
from lib.models.any_size import ready_for_any_size
from tests.detectors import random_dsfd


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a fault of TensorFlow's")
def test_images_that_differ_in_height_only() -> None:
    model = inference_model(random_dsfd())
    # Heights whose maps are odd at one level and even at another, all of one width.
    images = [np.full((1, height, 128, 3), 99, np.float32) for height in (744, 688, 1365, 608, 619)]
    ready_for_any_size(model)
    for image in images:
        found, expected = model.predict_on_batch(image), model(image)
        for name in ("boxes", "scores"):
            np.testing.assert_allclose(found[name], np.asarray(expected[name]), rtol=1e-3, atol=1e-3)


def test_a_model_without_dilation_is_not_run(tiny_model: keras.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_model, "predict_on_batch", None)
    ready_for_any_size(tiny_model)
    assert not tiny_model.jit_compile


def test_a_model_of_one_size_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    image = keras.Input((16, 16, 3))
    model = keras.Model(image, keras.layers.Conv2D(1, 3, dilation_rate=2)(image))
    monkeypatch.setattr(model, "predict_on_batch", None)
    ready_for_any_size(model)
    assert not model.jit_compile
