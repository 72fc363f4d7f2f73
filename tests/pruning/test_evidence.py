"""Criteria that look at images, against ten lines of NumPy and against finite differences."""

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from lib.arrays import FloatArray
from lib.errors import ConfigError
from lib.pruning import plan, scores
from lib.pruning.criteria import combined

MSE = keras.losses.MeanSquaredError()


def _model() -> keras.Model:
    """image -> a (3x3) -> ReLU -> b, batch normalisation, ReLU -> mean -> head."""
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 2))
    x = layers.ReLU()(layers.Conv2D(4, 3, name="a", bias_initializer="random_normal")(image))
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(5, 1, use_bias=False, name="b")(x))
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
    return keras.Model(image, layers.Dense(3, name="head")(x))


def _batches(count: int) -> list[tuple[FloatArray, FloatArray]]:
    rng = np.random.default_rng(0)
    return [
        (rng.normal(size=(2, 6, 6, 2)).astype(np.float32), rng.normal(size=(2, 3)).astype(np.float32))
        for _ in range(count)
    ]


def _losses_by_gates(model: keras.Model, name: str, batch: tuple[FloatArray, FloatArray], step: float) -> FloatArray:
    """[filters]: the loss once each filter of a layer, and its bias, is scaled by 1 + step."""
    layer = model.get_layer(name)
    whole, found = layer.get_weights(), []
    for channel in range(whole[0].shape[-1]):
        scaled = [weight.copy() for weight in whole]
        for weight in scaled:
            weight[..., channel] *= 1 + step
        layer.set_weights(scaled)
        found.append(float(MSE(batch[1], model(batch[0], training=False))))
    layer.set_weights(whole)
    return np.array(found)


@pytest.mark.parametrize("criterion", ["taylor", "fisher"])
def test_gradients_by_gates_are_those_of_finite_differences(criterion: str) -> None:
    model, batches = _model(), _batches(3)
    found = scores(model, criterion, batches=batches, loss=MSE)
    for name in ("a", "b"):
        step = 1e-2
        gates = [
            (_losses_by_gates(model, name, batch, step) - _losses_by_gates(model, name, batch, -step)) / (2 * step)
            for batch in batches
        ]
        said = np.mean(np.abs(gates), axis=0) if criterion == "taylor" else np.mean(np.square(gates), axis=0) / 2
        np.testing.assert_allclose(found[name], said / said.mean(), rtol=2e-2, atol=1e-3)


def test_activation_is_the_mean_of_what_is_read() -> None:
    model, batches = _model(), _batches(2)
    found = scores(model, "activation", batches=[inputs for inputs, _ in batches])
    inside = keras.Model(model.inputs, [model.get_layer("a").output, model.get_layer("head").input])
    read: list[list[Any]] = [[], []]
    for inputs, _ in batches:
        a, pooled = inside(inputs, training=False)
        read[0].append(np.maximum(np.asarray(a), 0).mean(axis=(0, 1, 2)))
        read[1].append(np.abs(np.asarray(pooled)).mean(axis=0))
    for name, values in zip(("a", "b"), read, strict=True):
        mean = np.mean(values, axis=0)
        np.testing.assert_allclose(found[name], mean / mean.mean(), rtol=1e-5)


def test_tied_layers_have_the_same_say() -> None:
    image = keras.Input((4, 4, 2))
    stem = layers.Conv2D(3, 1, name="stem")(image)
    x = layers.Add()([stem, layers.Conv2D(3, 1, name="branch")(stem)])
    model = keras.Model(image, layers.Dense(1)(layers.GlobalAveragePooling2D()(x)))
    batch = (np.ones((2, 4, 4, 2), np.float32), np.ones((2, 1), np.float32))
    both = scores(model, "taylor", batches=[batch], loss=MSE)["stem"]
    alone = []
    for name in ("stem", "branch"):
        step = 1e-2
        gates = _losses_by_gates(model, name, batch, step) - _losses_by_gates(model, name, batch, -step)
        alone.append(np.abs(gates))
    np.testing.assert_allclose(both, combined(alone), rtol=2e-2, atol=1e-3)


def test_plan_takes_the_scores() -> None:
    model = _model()
    said = scores(model, "activation", batches=_batches(1))
    masks = plan(model, 0.5, said)
    assert masks.channels["a"] == tuple(sorted(np.argsort(said["a"])[:2].tolist()))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            {"criterion": "taylor"},
            r"looks at images: give plan the scores that scores\(model, 'taylor', batches=..., loss",
        ),
        ({"criterion": "taylor", "batches": []}, "goes with the criteria"),
        ({"criterion": "taylor", "batches": [], "loss": MSE}, "no batches"),
        ({"criterion": "activation", "batches": []}, "no batches"),
        ({"criterion": "fisher", "batches": [np.ones((1, 6, 6, 2))], "loss": MSE}, r"batches of \(inputs, targets\)"),
        ({"criterion": "l1", "batches": []}, "not 'l1'"),
        ({"criterion": "l1", "loss": MSE}, "goes with the criteria"),
    ],
)
def test_what_is_missing_is_said(how: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        scores(_model(), **how)


def test_plan_alone_cannot_measure() -> None:
    with pytest.raises(ConfigError, match="looks at images"):
        plan(_model(), 0.5, "fisher")
