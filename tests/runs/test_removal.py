import keras
import numpy as np
import pytest

from lib.errors import ModelError
from lib.pruning import Masks, apply_masks, channel_sets, plan
from lib.pruning.cost import count_parameters
from lib.runs.removal import remove
from tests.detectors import small_detector
from tests.networks import lively


def _images(rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.integers(0, 256, (height, 96, 3)).astype(np.uint8) for height in (64, 90)]


@pytest.fixture
def model(rng: np.random.Generator) -> keras.Model:
    return lively(small_detector(8), rng)


@pytest.fixture
def masked(model: keras.Model) -> tuple[keras.Model, Masks]:
    masks = plan(model, 0.4)
    apply_masks(model, masks)
    return model, masks


def test_the_smaller_model_is_the_masked_one(masked: tuple[keras.Model, Masks], rng: np.random.Generator) -> None:
    model, masks = masked
    small, proof = remove(model, masks, _images(rng))
    assert proof.difference <= 1e-4
    assert proof.same_detections
    assert proof.images == 2
    assert proof.detections > 0
    assert proof.removed == proof.masked
    assert count_parameters(small) < 0.6 * count_parameters(model)


def test_a_model_that_is_not_masked_all_the_way_is_refused(
    masked: tuple[keras.Model, Masks], rng: np.random.Generator
) -> None:
    model, masks = masked
    assert {item.name: item.convolutions for item in channel_sets(model)}["conv1"] == ("conv1", "conv2")
    beta = np.asarray(model.get_layer("conv2_bn").beta).copy()
    beta[masks.channels["conv1"][0]] = 0.5
    model.get_layer("conv2_bn").beta.assign(beta)
    with pytest.raises(ModelError, match=r"an output differs by .*Are the masked channels zero"):
        remove(model, masks, _images(rng))


def test_of_masks_by_layer_goes_what_can(model: keras.Model, rng: np.random.Generator) -> None:
    masks = plan(model, 0.4, mode="per_layer")
    apply_masks(model, masks)
    small, proof = remove(model, masks, _images(rng))
    assert 0 < proof.removed < proof.masked == sum(map(len, masks.channels.values()))
    assert count_parameters(small) < count_parameters(model)


def test_without_an_image_noise_is_the_proof(masked: tuple[keras.Model, Masks]) -> None:
    small, proof = remove(*masked, [])
    assert (proof.images, proof.detections, proof.same_detections) == (0, 0, True)
    assert 0 < proof.difference <= 1e-4
    assert count_parameters(small) < count_parameters(masked[0])
