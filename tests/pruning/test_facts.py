import keras
import numpy as np
import pytest
from keras import layers

from lib.models.layers import WeightedFusion
from lib.pruning.facts import Rule, facts_by_weights, facts_on_images
from lib.pruning.graph.calls import Calls
from lib.pruning.graph.flow import Flow
from tests.networks import nested_networks

NAN = float("nan")


def _model() -> keras.Model:
    """a -> norm -> ReLU, three channels: one that works, one with a zero filter and one cut off by the ReLU."""
    image = keras.Input((4, 4, 1))
    x = layers.Conv2D(3, 1, use_bias=False, name="a")(image)
    x = layers.ReLU()(layers.BatchNormalization(epsilon=0.0, name="norm")(x))
    model = keras.Model(image, x)
    model.get_layer("a").kernel.assign(np.reshape([1.0, 0.0, 0.0], (1, 1, 1, 3)))
    model.get_layer("norm").beta.assign([0.0, 2.0, -2.0])
    return model


@pytest.mark.parametrize(
    ("rule", "normed", "cut"),
    [
        ("exact", [NAN, 2, -2], [NAN, 2, 0]),
        ("zero", [NAN, NAN, NAN], [NAN, NAN, NAN]),
        ("filter", [NAN, 0, 0], [NAN, 0, 0]),
    ],
)
def test_what_is_known_by_each_rule(rule: Rule, normed: list[float], cut: list[float]) -> None:
    flow = Flow(Calls(_model()))
    facts = facts_by_weights(flow, rule)
    np.testing.assert_array_equal(facts[2], normed)
    np.testing.assert_array_equal(facts[3], cut)


def test_on_images_each_image_has_its_own_facts() -> None:
    flow = Flow(Calls(_model()))
    images = np.stack([np.ones((4, 4, 1)), np.zeros((4, 4, 1))]).astype(np.float32)
    facts = facts_on_images(flow, images, {0, 3})
    assert facts.keys() == {0, 3}
    np.testing.assert_array_equal(facts[3], [[NAN, NAN, 0], [0, NAN, 0]])


@pytest.mark.parametrize("name", nested_networks())
def test_what_is_zero_by_the_weights_is_zero_on_images(name: str, rng: np.random.Generator) -> None:
    """The law that ties both sources together, for every kind of layer, nested models too."""
    model = nested_networks()[name]()
    for weight in model.weights:
        if weight.name.endswith("kernel"):
            weight.assign(np.where(rng.random(weight.shape[-1]) < 0.4, 0, weight))
    flow = Flow(Calls(model))
    numbers = set(range(len(flow.calls.shapes)))
    measured = facts_on_images(flow, rng.uniform(0, 255, (2, 16, 16, 3)).astype(np.float32), numbers)
    found = 0
    for number, known in facts_by_weights(flow).items():
        assert not np.isnan(measured[number][:, known == 0]).any()
        found += int((known == 0).sum())
    assert found


def test_constants_through_a_weighted_sum() -> None:
    image = keras.Input((4, 4, 1))
    a, b = (layers.Conv2D(2, 1, kernel_initializer="zeros", name=name)(image) for name in "ab")
    model = keras.Model(image, WeightedFusion()([a, b]))
    model.get_layer("a").bias.assign([1.0, 0.0])
    facts = facts_by_weights(flow := Flow(Calls(model)))
    value = np.asarray(model(np.zeros((1, 4, 4, 1))))[0, 0, 0]
    np.testing.assert_allclose(facts[flow.calls.outputs[0]], value, rtol=1e-6)
    assert facts[flow.calls.outputs[0]][1] == 0


def test_a_norm_that_is_given_a_mask() -> None:
    words = keras.Input((6,), dtype="int32")
    x = layers.BatchNormalization(name="norm")(layers.Dense(5)(layers.Embedding(9, 6, mask_zero=True)(words)))
    model = keras.Model(words, layers.Dense(2)(layers.LSTM(4)(x)))
    norm = model.get_layer("norm")
    norm.gamma.assign([0, 1, 1, 1, 1])
    norm.beta.assign([3, 0, 0, 0, 0])
    calls = Calls(model)
    (number,) = (call.outputs[0] for call in calls.calls if call.layer is norm)
    np.testing.assert_array_equal(facts_by_weights(Flow(calls))[number], [3, NAN, NAN, NAN, NAN])
