import keras
import numpy as np
import pytest

from lib.detection.formats.pb import DetectionSettings
from lib.errors import ModelError
from lib.pruning import Masks, apply_masks, plan, shrink
from lib.pruning.cost import count_parameters
from lib.runs.removal import frozen_bytes, measured, remove
from tests.detectors import random_detector

SETTINGS = DetectionSettings(score_threshold=0.3)


def _images(rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.integers(0, 256, (height, 96, 3)).astype(np.uint8) for height in (64, 90)]


@pytest.fixture
def masked() -> tuple[keras.Model, Masks]:
    model = random_detector(0.03125)
    masks = plan(model, 0.4)
    apply_masks(model, masks)
    return model, masks


def test_the_smaller_model_is_the_masked_one(masked: tuple[keras.Model, Masks], rng: np.random.Generator) -> None:
    model, masks = masked
    removal = remove(model, masks, _images(rng))
    assert removal.difference <= 1e-4
    assert removal.same_detections
    assert removal.images == 2
    assert removal.detections > 0
    assert removal.removed == removal.masked
    assert count_parameters(removal.model) < 0.6 * count_parameters(model)


def test_a_model_that_is_not_masked_all_the_way_is_refused(
    masked: tuple[keras.Model, Masks], rng: np.random.Generator
) -> None:
    model, masks = masked
    beta = np.asarray(model.get_layer("conv2_bn").beta).copy()
    beta[masks.channels["conv2"][0]] = 0.5
    model.get_layer("conv2_bn").beta.assign(beta)
    with pytest.raises(ModelError, match=r"an output differs by .*Are the masked channels zero"):
        remove(model, masks, _images(rng))


def test_of_masks_by_layer_goes_what_can(rng: np.random.Generator) -> None:
    model = random_detector(0.03125)
    masks = plan(model, 0.4, mode="per_layer")
    apply_masks(model, masks)
    removal = remove(model, masks, _images(rng))
    assert 0 < removal.removed < removal.masked == sum(map(len, masks.channels.values()))
    assert count_parameters(removal.model) < count_parameters(model)


@pytest.mark.slow
def test_file_sizes_and_times(masked: tuple[keras.Model, Masks]) -> None:
    model, masks = masked
    small = shrink(model, masks)
    figures = measured({"masked": model, "shrunk": small}, 64, 64, SETTINGS, rounds=5)
    assert figures["shrunk"]["pb_bytes"] == frozen_bytes(small, SETTINGS) < figures["masked"]["pb_bytes"]
    assert all(figure["latency_ms"] > 0 for figure in figures.values())
