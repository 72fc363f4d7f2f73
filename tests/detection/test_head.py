import keras
import numpy as np
import pytest

from lib.detection import head
from lib.errors import ModelError
from lib.geometry.scores import margins, probabilities
from lib.models.yunet import yunet
from tests.detectors import of_one_size, random_dsfd, small_detector


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


def test_a_model_of_one_size_is_exported_at_no_other() -> None:
    model = of_one_size(small_detector(), 64, 96)
    assert head.exportable(model, (64, 96)).input.shape[1:3] == (64, 96)
    with pytest.raises(
        ModelError, match=r"takes images of 64x96 \(height x width\) alone, not of 64x64; .*clone_model"
    ):
        head.exportable(model, (64, 64))
