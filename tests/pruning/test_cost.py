import keras
import numpy as np
import pytest
from keras import layers

from lib.models import build
from lib.pruning.cost import count_macs, count_parameters, layer_costs, uncounted, zero_share
from lib.pruning.graph.calls import Calls


def test_eresfd_has_the_published_size() -> None:
    model = build("eresfd")
    assert count_parameters(model) == 92_208
    assert round(count_macs(model, 480, 640) / 1e6, 2) == 295.07


def test_macs_by_hand() -> None:
    image = keras.Input((None, None, 3))
    x = layers.Conv2D(8, 3, strides=2, padding="same", name="a")(image)
    x = layers.DepthwiseConv2D(3, padding="same", name="b")(x)
    x = layers.BatchNormalization(name="c")(x)
    x = layers.Dense(5, name="d")(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(image, x)
    costs = {cost.name: (cost.parameters, cost.macs) for cost in layer_costs(model, 10, 7)}
    assert costs == {
        "a": (3 * 3 * 3 * 8 + 8, 5 * 4 * 3 * 3 * 3 * 8),
        "b": (3 * 3 * 8 + 8, 5 * 4 * 3 * 3 * 8),
        "c": (16, 0),
        "d": (8 * 5 + 5, 8 * 5),
    }


def test_a_shared_layer_counts_each_call_but_its_parameters_once() -> None:
    image = keras.Input((8, 8, 3))
    shared = layers.Conv2D(3, 1, use_bias=False)
    model = keras.Model(image, shared(shared(image)))
    assert count_macs(model, 8, 8) == 2 * 64 * 9
    assert count_parameters(model) == 9


def test_zero_share(tiny_model: keras.Model) -> None:
    kernel = tiny_model.get_layer("conv2").kernel
    before = round(zero_share(tiny_model) * count_parameters(tiny_model))
    values = np.asarray(kernel).copy()
    values[..., 0] = 0
    kernel.assign(values)
    assert round(zero_share(tiny_model) * count_parameters(tiny_model)) - before == values[..., 0].size


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (layers.Conv1D(4, 3, padding="same"), (10, 2), 10 * 3 * 2 * 4),
        (layers.Conv2DTranspose(4, 3, strides=2), (5, 6, 2), 5 * 6 * 9 * 2 * 4),
        (layers.SeparableConv2D(4, 3, padding="same"), (5, 6, 2), 30 * (9 * 2 + 2 * 4)),
        (layers.Conv2D(4, 3, groups=2, padding="same"), (5, 6, 2), 30 * 9 * 1 * 4),
        (layers.Dense(4), (7, 2), 7 * 2 * 4),
        (layers.BatchNormalization(), (5, 6, 2), 0),
        (layers.PReLU(), (5, 6, 2), 0),
    ],
)
def test_macs_of_every_kind_of_layer(layer: keras.Layer, shape: tuple[int, ...], macs: int) -> None:
    given = keras.Input(shape)
    model = keras.Model(given, layer(given))
    assert count_macs(model, *shape[:2]) == macs
    assert not uncounted(Calls(model))


def test_macs_of_attention_are_those_of_its_projections() -> None:
    query, value = keras.Input((10, 8)), keras.Input((5, 6))
    model = keras.Model([query, value], layers.MultiHeadAttention(2, 4)(value=value, query=query))
    assert count_macs(model, 1, 1) == 10 * 8 * 8 + 2 * 5 * 6 * 8 + 10 * 8 * 8


def test_a_layer_of_an_unknown_kind_is_named(caplog: pytest.LogCaptureFixture) -> None:
    given = keras.Input((10, 8))
    x = layers.EinsumDense("abc,cd->abd", (10, 8), name="einsum")(given)
    model = keras.Model(given, layers.Dense(3, name="d")(x))
    assert uncounted(Calls(model)) == ["einsum (EinsumDense)"]
    assert count_macs(model, 1, 1) == 10 * 8 * 3
    assert "not counted: einsum (EinsumDense)" in caplog.text


def test_namesakes_in_nested_models_are_told_apart() -> None:
    inside = keras.Input((4, 4, 3))
    nested = keras.Model(inside, layers.Conv2D(3, 1, name="a")(inside), name="nested")
    image = keras.Input((4, 4, 3))
    model = keras.Model(image, layers.Conv2D(3, 1, name="a")(nested(image)))
    assert [(cost.name, cost.macs) for cost in layer_costs(model, 4, 4)] == [("a", 16 * 9), ("a#2", 16 * 9)]
