import keras
import numpy as np
import pytest
from keras import layers

from lib.models import anchors_of
from lib.models.folding import fold_batch_norms
from tests.detectors import random_detector
from tests.networks import nested_networks


def has_batch_norm(model: keras.Model) -> bool:
    return any(isinstance(layer, layers.BatchNormalization) for layer in model.layers)


def test_detector_computes_the_same_without_batch_norms() -> None:
    model = random_detector()
    folded = fold_batch_norms(model)
    images = np.random.default_rng(1).uniform(0, 255, (2, 67, 90, 3)).astype(np.float32)
    before, after = model(images, training=False), folded(images, training=False)
    assert not has_batch_norm(folded) and has_batch_norm(model)
    assert anchors_of(folded) == anchors_of(model)
    for name in ("boxes", "scores"):
        np.testing.assert_allclose(after[name], before[name], rtol=1e-4, atol=1e-4)


def after_convolution(x: keras.KerasTensor) -> keras.KerasTensor:
    return layers.BatchNormalization()(layers.Conv2D(6, 3, padding="same")(x))


def after_depthwise(x: keras.KerasTensor) -> keras.KerasTensor:
    return layers.BatchNormalization()(layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False)(x))


def after_activation(x: keras.KerasTensor) -> keras.KerasTensor:
    return layers.BatchNormalization()(layers.Conv2D(6, 3, activation="relu")(x))


def after_a_convolution_that_others_use(x: keras.KerasTensor) -> keras.KerasTensor:
    y = layers.Conv2D(6, 3, padding="same")(x)
    return layers.Add()([layers.BatchNormalization()(y), y])


def before_a_convolution(x: keras.KerasTensor) -> keras.KerasTensor:
    return layers.Conv2D(6, 3, padding="same")(layers.BatchNormalization(scale=False)(x))


def without_offset(x: keras.KerasTensor) -> keras.KerasTensor:
    return layers.BatchNormalization(center=False)(layers.Conv2D(6, 3)(x))


@pytest.mark.parametrize(
    "body",
    [
        after_convolution,
        after_depthwise,
        after_activation,
        after_a_convolution_that_others_use,
        before_a_convolution,
        without_offset,
    ],
)
def test_every_place_of_a_batch_norm(body) -> None:  # type: ignore[no-untyped-def]
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    image = keras.Input((9, 11, 4))
    model = keras.Model(image, body(image))
    model.set_weights([random.uniform(0.5, 1.5, weight.shape) for weight in model.get_weights()])
    folded = fold_batch_norms(model)
    x = random.normal(size=(2, 9, 11, 4)).astype(np.float32)
    assert not has_batch_norm(folded)
    np.testing.assert_allclose(folded(x), model(x, training=False), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", nested_networks())
def test_nested_models_are_folded_too(name: str) -> None:
    assert not has_batch_norm(fold_batch_norms(nested_networks()[name]()))


def test_namesakes_in_nested_models_are_folded_apart() -> None:
    random = np.random.default_rng(0)
    inside = keras.Input((None, None, 4))
    inner = keras.Model(inside, layers.BatchNormalization(name="bn")(layers.Conv2D(4, 3, name="a")(inside)), name="in")
    image = keras.Input((9, 11, 4))
    model = keras.Model(image, layers.BatchNormalization(name="bn")(layers.Conv2D(4, 3, name="a")(inner(image))))
    model.set_weights([random.uniform(0.5, 1.5, weight.shape) for weight in model.get_weights()])
    folded = fold_batch_norms(model)
    x = random.normal(size=(2, 9, 11, 4)).astype(np.float32)
    np.testing.assert_allclose(folded(x), model(x, training=False), rtol=1e-4, atol=1e-4)


def test_a_convolution_that_is_an_output_too_keeps_its_values() -> None:
    image = keras.Input((9, 11, 4))
    made = layers.Conv2D(6, 3, name="made")(image)
    model = keras.Model(image, [made, layers.BatchNormalization(name="norm")(made)])
    model.get_layer("norm").beta.assign(np.arange(6.0))
    x = np.random.default_rng(0).normal(size=(2, 9, 11, 4)).astype(np.float32)
    for ours, theirs in zip(fold_batch_norms(model)(x), model(x, training=False), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_normalisation_of_another_axis_is_folded() -> None:
    random = np.random.default_rng(0)
    image = keras.Input((9, 11, 4))
    model = keras.Model(image, layers.BatchNormalization(axis=1)(image))
    model.set_weights([random.uniform(0.5, 1.5, weight.shape) for weight in model.get_weights()])
    x = random.normal(size=(2, 9, 11, 4)).astype(np.float32)
    np.testing.assert_allclose(fold_batch_norms(model)(x), model(x, training=False), rtol=1e-4, atol=1e-4)
