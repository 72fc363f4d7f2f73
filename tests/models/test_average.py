from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from lib.errors import ConfigError, ModelError
from lib.models.average import average
from tests.detectors import small_detector


def test_every_weight_is_the_weighted_mean() -> None:
    models = [small_detector(seed=seed) for seed in range(3)]
    kept = [[np.array(weight) for weight in model.get_weights()] for model in models]
    for shares, parts in (([1, 2, 5], (0.125, 0.25, 0.625)), (None, (1 / 3,) * 3), ([0, 0, 9.0], (0, 0, 1))):
        mean = average(models, shares)
        for row in zip(mean.get_weights(), *kept, strict=True):
            expected = sum(part * value.astype(np.float64) for part, value in zip(parts, row[1:], strict=True))
            np.testing.assert_allclose(row[0], expected, rtol=1e-6, atol=1e-7)
    for model, weights in zip(models, kept, strict=True):
        for one, other in zip(model.get_weights(), weights, strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_model_and_itself_compute_the_same(rng: np.random.Generator) -> None:
    model = small_detector(8)
    image = rng.uniform(0, 255, (1, 64, 96, 3)).astype(np.float32)
    mean = average([model, model], [0.3, 0.7])
    for one, other in zip(model(image).values(), mean(image).values(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


class _Counted(layers.Layer):
    def build(self, _shape: object) -> None:
        self.count = self.add_weight(shape=(), dtype="int32", initializer="zeros", trainable=False)

    def call(self, inputs: Any) -> Any:
        return inputs


def test_what_is_no_float_comes_from_the_last() -> None:
    image = keras.Input((8,), name="image")
    models = [keras.Model(image, _Counted(name="counted")(image)) for _ in range(2)]
    for number, model in enumerate(models):
        model.get_layer("counted").count.assign(7 + 2 * number)
    assert int(average(models).get_layer("counted").count) == 9


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ([1], "got 2 and 1"),
        ([0, 0], "not all 0"),
        ([-1, 2], "not negative"),
        ([float("nan"), 1], "finite"),
        ([float("inf"), 1], "finite"),
    ],
)
def test_unfit_shares_are_refused(shares: list[float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        average([small_detector(), small_detector()], shares)


def test_one_model_has_no_mean() -> None:
    with pytest.raises(ConfigError, match="two models or more"):
        average([small_detector()])


def test_other_networks_are_named() -> None:
    with pytest.raises(
        ModelError, match=r"model 2 of 3 .*: conv1/kernel \[3, 3, 3, 8\] and conv1/kernel \[3, 3, 3, 4\]"
    ):
        average([small_detector(), small_detector(8), small_detector()])
    image = keras.Input((8,))
    deeper = keras.Model(image, layers.Dense(8, name="b")(layers.Dense(8, name="a")(image)))
    with pytest.raises(ModelError, match=r"nothing and b/kernel \[8, 8\]"):
        average([keras.Model(image, deeper.layers[1].output), deeper])
