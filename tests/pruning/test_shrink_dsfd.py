"""Removal in a DSFD: L2 normalisation, products, convolutions that branches share, depthwise ones, two shots."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from lib.models import build, inference_model, load, save, shots
from lib.pruning import CostModel, Masks, channel_sets, largest_difference, plan, shrink
from lib.pruning.cost import count_parameters
from tests.networks import assert_costs_what_was_predicted, lively, masked_and_smaller, random_masks

SMALL: dict[str, Any] = {"fem_dims": 16, "fpn_dims": (8, 8, 8, 8, 8, 8)}


def _same_function(model: keras.Model, masks: Masks, height: int, width: int) -> keras.Model:
    images = np.random.default_rng(0).uniform(0, 255, (1, height, width, 3)).astype(np.float32)
    return masked_and_smaller(model, masks, images, 1e-4)[1]


@pytest.mark.parametrize("name", ["MobilenetV2", "vgg_16"])
def test_masked_is_shrunk(name: str, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    model = lively(build(name, **SMALL), random, 96)
    sets = {item.name: item for item in channel_sets(model)}
    assert sets["merge2"].convolutions == ("merge2", "lateral2")  # the operands of a product
    assert "fem0_shared" in sets
    masks = random_masks(list(sets.values()), random, ())
    small = _same_function(model, masks, 70, 99)
    assert shots(small) == shots(model)
    assert_costs_what_was_predicted(CostModel(model, 64, 64), masks, small, 64, 64)
    save(small, tmp_path / "small.keras")
    images = random.uniform(0, 255, (1, 64, 64, 3)).astype(np.float32)
    assert largest_difference(load(tmp_path / "small.keras"), small, images) == 0


def test_the_detecting_part_of_a_shrunk_dsfd_is_smaller_by_the_plan() -> None:
    random = np.random.default_rng(2)
    model = lively(build("MobilenetV2", **SMALL), random, 96)
    masks = plan(model, 0.5)
    small = shrink(model, masks)
    part = shrink(inference_model(model), masks)
    assert count_parameters(inference_model(small)) == count_parameters(part) < 0.4 * count_parameters(model)
    images = random.uniform(0, 255, (1, 64, 96, 3)).astype(np.float32)
    assert largest_difference(inference_model(small), part, images) == 0


def test_groups_of_a_normalisation_go_whole() -> None:
    random = np.random.default_rng(3)
    model = lively(build("MobilenetV2", **SMALL, fpn=False, norm="GN"), random, 96)
    sizes = {item.name: item.size for item in channel_sets(model)}
    assert sizes["extra_conv1"] == model.get_layer("extra_conv1_gn").groups
    _same_function(model, plan(model, 0.3), 64, 64)
