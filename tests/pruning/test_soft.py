import logging

import keras
import numpy as np
import pytest

from lib.models import build
from lib.pruning import SoftPruning, channel_sets


def _zero_filters(model: keras.Model) -> int:
    total = 0
    for item in channel_sets(model):
        for name in item.convolutions:
            kernel = np.asarray(model.get_layer(name).kernel)
            total += int((~kernel.reshape(-1, kernel.shape[-1]).any(axis=0)).sum())
    return total


def _zero_gammas(model: keras.Model) -> int:
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    return sum(int((np.asarray(layer.gamma) == 0).sum()) for layer in norms)


def test_prunes_every_few_epochs_and_for_good_after_the_last() -> None:
    model = build("eresfd", width_mult=8 / 256)
    pruning = SoftPruning(0.5, "fpgm", "removable", every=2, first_epoch=10, last_epoch=14)
    pruning.set_model(model)
    pruned_after = []
    rng = np.random.default_rng(0)
    for epoch in range(10, 15):
        for item in channel_sets(model):  # stands for training: everything moves
            for name in item.convolutions:
                kernel = model.get_layer(name).kernel
                kernel.assign(np.asarray(kernel) + rng.normal(0, 0.1, kernel.shape))
        pruning.on_epoch_end(epoch)
        if _zero_filters(model):
            pruned_after.append(epoch)
        if epoch < 14:
            assert _zero_gammas(model) == 0
    assert pruned_after == [11, 13, 14]
    assert _zero_gammas(model) == _zero_filters(model) > 0


def test_counts_the_channels_that_came_back(tiny_model: keras.Model, caplog: pytest.LogCaptureFixture) -> None:
    pruning = SoftPruning({"conv3": 0.25}, "l1", "removable", every=1, first_epoch=0, last_epoch=9)
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
    assert "epoch 2: 1 channels pruned before came back" in caplog.text
    assert pruning.masks.channels["conv3"] != (gone,)
