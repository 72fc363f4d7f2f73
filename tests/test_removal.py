import keras
import numpy as np
import pytest

from lib.cost import count_macs, count_parameters
from lib.errors import ModelError
from lib.export import DetectionSettings
from lib.models import inference_model
from lib.pruning import Masks, apply_masks, plan
from lib.removal import frozen_bytes, measured, plan_table, remove
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
    removal = remove(model, masks, _images(rng), SETTINGS)
    assert removal.difference <= 1e-4
    assert removal.same_detections == removal.images == 2
    assert count_parameters(removal.model) < 0.6 * count_parameters(model)


def test_a_model_that_is_not_masked_all_the_way_is_refused(
    masked: tuple[keras.Model, Masks], rng: np.random.Generator
) -> None:
    model, masks = masked
    beta = np.asarray(model.get_layer("conv2_bn").beta).copy()
    beta[masks.channels["conv2"][0]] = 0.5
    model.get_layer("conv2_bn").beta.assign(beta)
    with pytest.raises(ModelError, match=r"an output differs by .*Are the masked channels zero"):
        remove(model, masks, _images(rng), SETTINGS)


def test_the_table_foretells_the_smaller_models_cost(masked: tuple[keras.Model, Masks]) -> None:
    model, masks = masked
    table = plan_table(inference_model(model), masks, 64, 96)
    small = remove(model, masks, [], SETTINGS).model
    assert f"parameters: {count_parameters(model):,} -> {count_parameters(small):,} (" in table
    assert f"{count_macs(model, 64, 96) / 1e6:.2f} M -> {count_macs(small, 64, 96) / 1e6:.2f} M (" in table
    (row,) = [line for line in table.splitlines() if line.startswith("| conv3 ")]
    assert [cell.strip() for cell in row.split("|")[1:-1]] == ["conv3", "8", "5"]


@pytest.mark.slow
def test_file_sizes_and_times(masked: tuple[keras.Model, Masks]) -> None:
    model, masks = masked
    small = remove(model, masks, [], SETTINGS).model
    figures = measured({"masked": model, "shrunk": small}, 64, 64, SETTINGS, rounds=5)
    assert figures["shrunk"]["pb_bytes"] == frozen_bytes(small, SETTINGS) < figures["masked"]["pb_bytes"]
    assert all(figure["latency_ms"] > 0 for figure in figures.values())
