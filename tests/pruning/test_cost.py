import keras
import numpy as np
from keras import layers

from lib.models import build
from lib.pruning.cost import count_macs, count_parameters, layer_costs, zero_share


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
