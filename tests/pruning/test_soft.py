import logging
from functools import partial
from typing import Any

import keras
import numpy as np
import pytest

from lib.models import build
from lib.pruning import SoftPruning, channel_sets, plan


def _zeros(model: keras.Model, attribute: str, names: str = "convolutions") -> int:
    """Channels of which the weight is zero."""
    total = 0
    for item in channel_sets(model):
        for name in getattr(item, names):
            weight = np.asarray(getattr(model.get_layer(name), attribute))
            total += int((~weight.reshape(-1, weight.shape[-1]).any(axis=0)).sum())
    return total


def _train(model: keras.Model, rng: np.random.Generator) -> None:
    """Stands for training: everything moves."""
    for weight in model.trainable_weights:
        weight.assign(np.asarray(weight) + rng.normal(0, 0.1, weight.shape))


@pytest.mark.parametrize("schedule", ["constant", "polynomial"])
def test_prunes_every_few_epochs_and_for_good_after_the_last(rng: np.random.Generator, schedule: Any) -> None:
    model = build("eresfd", width_mult=8 / 256)
    pruning = SoftPruning(0.5, 2, first_epoch=10, last_epoch=16, schedule=schedule)
    pruning.set_model(model)
    pruned = {}
    for epoch in range(10, 17):
        _train(model, rng)
        pruning.on_epoch_end(epoch)
        if _zeros(model, "gamma", "norms"):
            pruned[epoch] = _zeros(model, "gamma", "norms")
        if epoch < 16:
            assert _zeros(model, "kernel") == _zeros(model, "beta", "norms") == 0
    assert list(pruned) == [11, 13, 15, 16]
    full = sum(item.size // 2 * len(item.norms) for item in channel_sets(model))
    assert pruned[15] == pruned[16] == full
    assert (pruned[11] < full) == (schedule == "polynomial")
    assert _zeros(model, "kernel") == _zeros(model, "beta", "norms") == full


def test_counts_the_channels_that_came_back(tiny_model: keras.Model, caplog: pytest.LogCaptureFixture) -> None:
    pruning = SoftPruning({"conv3": 0.25}, 1, 0, 9, choose=partial(plan, criterion="l1"))
    pruning.set_model(tiny_model)
    pruning.on_epoch_end(0)
    assert pruning.masks is not None
    (gone,) = pruning.masks.channels["conv3"]
    for name in ("conv3", "conv4_conv2"):
        kernel = np.asarray(tiny_model.get_layer(name).kernel).copy()
        kernel[..., gone] = 100
        tiny_model.get_layer(name).kernel.assign(kernel)
    with caplog.at_level(logging.INFO):
        pruning.on_epoch_end(1)
    assert "epoch 2: 1 channels set to zero; of the 1 before, 1 came back" in caplog.text
    assert pruning.masks.channels["conv3"] != (gone,)
