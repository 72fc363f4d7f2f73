from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from lib.errors import DataError, ModelError
from lib.models import build
from lib.pruning import Masks, apply_masks, channel_sets, combine, dead_channels, plan
from tests.detectors import random_detector


def _images(rng: np.random.Generator, count: int = 3, size: int = 64) -> list[np.ndarray]:
    return [rng.uniform(0, 255, (size, size, 3)).astype(np.float32) for _ in range(count)]


def _outputs(model: keras.Model, images: list[np.ndarray]) -> list[np.ndarray]:
    return [np.asarray(value) for image in images for value in keras.tree.flatten(model(image[None]))]


@pytest.mark.parametrize("mode", ["removable", "per_layer"])
def test_masking_dead_channels_changes_nothing_on_the_images(rng: np.random.Generator, mode: Any) -> None:
    model, images = random_detector(0.03125), _images(rng)
    for item in channel_sets(model):
        for name in item.norms:
            beta = np.asarray(model.get_layer(name).beta).copy()
            beta[0] = -100.0  # silent behind a ReLU, not before an addition
            model.get_layer(name).beta.assign(beta)
    masks = dead_channels(model, images, mode)
    found = {name for name, indices in masks.channels.items() if indices}
    assert {"conv2", "context0_branch1", "stage3_block1_conv1", "intermediate0"} & found >= {
        "conv2",
        "context0_branch1",
    }
    assert not found & {"stage1_block0_shortcut", "conv1"}
    before = _outputs(model, images)
    apply_masks(model, masks)
    for ours, theirs in zip(_outputs(model, images), before, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_untied_channels_are_dead_where_their_relu_is_always_zero(rng: np.random.Generator) -> None:
    model, images = random_detector(0.03125), _images(rng)
    sets = [item for item in channel_sets(model) if len(item.convolutions) == 1 and item.name != "conv1"]
    for item in sets:
        beta = np.asarray(model.get_layer(item.norms[0]).beta)
        model.get_layer(item.norms[0]).beta.assign(beta - rng.uniform(0, 6, item.size))
    behind = keras.Model(model.inputs, [model.get_layer(f"{item.name}_relu").output for item in sets])
    silent = [
        (np.stack([np.asarray(m).max(axis=(0, 1, 2)) for m in maps]) == 0).all(axis=0)
        for maps in zip(*(behind(image[None]) for image in images), strict=True)
    ]
    masks = dead_channels(model, images, min_channels=0)
    for item, dead in zip(sets, silent, strict=True):
        assert masks.channels[item.name] == tuple(np.flatnonzero(dead))
    assert 10 < sum(int(dead.sum()) for dead in silent) < 0.9 * sum(item.size for item in sets)


def _residual(weight_a: list[float], weight_b: list[float], relu: bool = True) -> keras.Model:
    """x * weight_a + x * weight_b, channel by channel, for an image of one channel; then a ReLU and a head."""
    image = keras.Input((4, 4, 1))
    a = layers.Conv2D(len(weight_a), 1, use_bias=False, name="a")(image)
    b = layers.Conv2D(len(weight_a), 1, use_bias=False, name="b")(image)
    x = layers.Add()([a, b])
    x = layers.ReLU()(x) if relu else x
    model = keras.Model(image, layers.Conv2D(1, 1, name="head")(x))
    model.get_layer("a").kernel.assign(np.reshape(weight_a, (1, 1, 1, -1)))
    model.get_layer("b").kernel.assign(np.reshape(weight_b, (1, 1, 1, -1)))
    return model


def test_a_tied_channel_is_dead_where_its_readers_see_nothing() -> None:
    image = np.ones((4, 4, 1), np.float32)
    silent_together = _residual([0.0, 1.0, 1.0, 1.0], [0.0, 0.0, -2.0, 2.0])
    assert dead_channels(silent_together, [image]).channels == {"a": (0, 2)}
    assert dead_channels(silent_together, [image, -image]).channels == {"a": (0,)}
    assert dead_channels(_residual([0.0, 1.0, 1.0], [0.0, 0.0, -2.0], relu=False), [image]).channels == {"a": (0,)}
    by_layer = dead_channels(silent_together, [image], "per_layer").channels
    assert by_layer == {"a": (0,), "b": (0, 1)}


def test_concatenated_channels_are_told_apart() -> None:
    image = keras.Input((4, 4, 1))
    a, b = (layers.Conv2D(3, 1, activation="relu", name=name)(image) for name in "ab")
    model = keras.Model(image, layers.Conv2D(1, 1, name="head")(layers.Concatenate()([b, a])))
    model.get_layer("a").kernel.assign(np.reshape([1.0, -1.0, 1.0], (1, 1, 1, 3)))
    model.get_layer("b").kernel.assign(np.reshape([-1.0, 1.0, -1.0], (1, 1, 1, 3)))
    assert dead_channels(model, [np.ones((2, 4, 4, 1))]).channels == {"b": (0, 2), "a": (1,)}


def test_a_zero_that_a_masked_channel_would_not_be_is_no_death() -> None:
    """hard_sigmoid of -100 is 0, and of a masked channel's 0 it is 0.5."""
    image = keras.Input((4, 4, 1))
    x = layers.Conv2D(2, 1, name="gate", bias_initializer=keras.initializers.Constant(-100.0))(image)
    x = layers.Activation("hard_sigmoid")(x)
    model = keras.Model(image, layers.Conv2D(1, 1, name="head")(x))
    for found in (dead_channels(model, [np.ones((4, 4, 1))], mode) for mode in ("removable", "per_layer")):
        assert not any(found.channels.values())


def test_some_channels_stay_even_if_all_are_dead() -> None:
    model = _residual([-1.0] * 4, [0.0] * 4)
    image = np.ones((4, 4, 1), np.float32)
    assert dead_channels(model, [image]).channels == {"a": (1, 2, 3)}
    assert dead_channels(model, [image], min_channels=3).channels == {"a": (3,)}
    assert dead_channels(model, [image], min_channels=0).channels == {"a": (0, 1, 2, 3)}


def test_no_image_is_refused() -> None:
    with pytest.raises(DataError, match="without an image"):
        dead_channels(_residual([1.0], [1.0]), [])


def test_masks_are_combined() -> None:
    a, b = Masks("removable", {"x": (0, 3), "y": ()}), Masks("removable", {"x": (1, 3), "y": (5,)})
    assert combine(a, b) == combine(b, a) == Masks("removable", {"x": (0, 1, 3), "y": (5,)})
    assert combine(a, a) == a
    model = build("eresfd", width_mult=4 / 256)
    for other in (Masks("per_layer", b.channels), Masks("removable", {"x": ()}), plan(model, 0.5)):
        with pytest.raises(ModelError, match="cannot be combined"):
            combine(a, other)
