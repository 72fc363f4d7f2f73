import keras
import numpy as np
import pytest
from keras import layers

from lib.pruning import apply_masks, channel_sets, plan
from lib.pruning.activity import active_by_weights, active_on_images
from lib.pruning.cost import layer_costs
from tests.detectors import random_detector
from tests.networks import nested_networks


def small_model() -> keras.Model:
    """Convolutions of 4, 6 and 5 channels; the second works depthwise."""
    image = keras.Input((None, None, 3))
    x = layers.Conv2D(4, 3, padding="same", use_bias=False, name="first")(image)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="middle")(x)
    y = layers.Conv2D(2, 1, use_bias=False, name="side")(x)
    return keras.Model(image, layers.Conv2D(5, 1, use_bias=False, name="last")(layers.Concatenate()([x, y])))


def without_filters(model: keras.Model, name: str, channels: list[int]) -> None:
    kernel = np.asarray(model.get_layer(name).kernel).copy()
    kernel[..., channels] = 0
    model.get_layer(name).kernel.assign(kernel)


def test_zero_filters_are_inactive_and_their_users_compute_less() -> None:
    model = small_model()
    without_filters(model, "first", [0, 2])
    without_filters(model, "side", [1])
    found = {item.name: item for item in active_by_weights(model, layer_costs(model, 10, 20))}
    pixels = 10 * 20
    assert {name: (item.channels, item.active, item.macs) for name, item in found.items()} == {
        "first": (4, 2, pixels * 9 * 3 * 2),
        "middle": (4, 2, pixels * 9 * 2),
        "side": (2, 1, pixels * 2 * 1),
        "last": (5, 5, pixels * (2 + 1) * 5),
    }


def test_constant_behind_a_zero_filter_is_not_silent() -> None:
    model = small_model()
    without_filters(model, "first", [0, 2])
    norm = model.get_layer("norm")
    norm.beta.assign([1, 1, 0, 1])
    norm.gamma.assign([1, 1, 0, 1])
    active = {item.name: item.active for item in active_by_weights(model, layer_costs(model, 8, 8), "silent")}
    assert active["first"] == 3


def test_activations_are_averaged_over_images() -> None:
    image = keras.Input((None, None, 3))
    convolution = layers.Conv2D(2, 1, name="only", use_bias=False)
    model = keras.Model(image, layers.ReLU()(convolution(image)))
    convolution.kernel.assign(np.array([[1, 0], [0, 1], [0, 0]], np.float32).reshape(1, 1, 3, 2))
    black = np.zeros((6, 9, 3), np.uint8)
    red = black + np.array([200, 0, 0], np.uint8)
    yellow = black[:4] + np.array([200, 1, 0], np.uint8)
    (found,) = active_on_images(model, layer_costs(model, 10, 10), [black, red, yellow])
    assert found.active == pytest.approx((0 + 1 + 2) / 3)
    # Of 100 * 3 * 2: nothing, one of three in and one of two out, two of three in and both out.
    assert found.macs == pytest.approx((0 + 100 * 1 * 1 + 100 * 2 * 2) / 3)


def test_negative_channels_without_a_relu_are_active() -> None:
    image = keras.Input((None, None, 3))
    convolution = layers.Conv2D(1, 1, name="only", use_bias=False)
    model = keras.Model(image, convolution(image))
    convolution.kernel.assign(-np.ones((1, 1, 3, 1), np.float32))
    (found,) = active_on_images(model, layer_costs(model, 4, 4), [np.full((4, 4, 3), 9, np.uint8)])
    assert found.active == 1


def test_no_image_is_refused() -> None:
    with pytest.raises(ValueError, match="without an image"):
        active_on_images(small_model(), [], [])


def test_channels_pruned_all_the_way_are_inactive_by_every_count() -> None:
    model = random_detector(0.03125)
    costs = layer_costs(model, 64, 64)
    masks = plan(model, 0.5)
    for item in channel_sets(model):  # as published: the filters alone
        for layer in (model.get_layer(name) for name in item.convolutions):
            layer.kernel.assign(np.where(np.isin(range(item.size), masks.channels[item.name]), 0, layer.kernel))
    by_filters, silent = active_by_weights(model, costs), active_by_weights(model, costs, "silent")
    assert sum(item.macs for item in silent) == sum(cost.macs for cost in costs)  # batch norms still add something
    apply_masks(model, masks)
    assert active_by_weights(model, costs, "silent") == by_filters
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    for measured, counted in zip(active_on_images(model, costs, [image]), by_filters, strict=True):
        assert measured.active <= counted.active
    assert 0.2 < sum(item.macs for item in by_filters) / sum(cost.macs for cost in costs) < 0.5


@pytest.mark.parametrize("name", nested_networks())
def test_a_model_without_a_zero_is_active_all_over(name: str) -> None:
    model = nested_networks()[name]()
    costs = layer_costs(model, 16, 16)
    for rule in ("filter", "silent"):
        found = active_by_weights(model, costs, rule)
        assert sum(item.macs for item in found) == sum(cost.macs for cost in costs)
        assert all(item.active == item.channels for item in found)
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    measured = active_on_images(model, costs, [image])
    assert [item.name for item in measured] == [item.name for item in found]


def test_a_transposed_convolution_is_counted_and_active() -> None:
    image = keras.Input((8, 8, 3))
    x = layers.Conv2DTranspose(5, 3, strides=2, padding="same", name="up")(layers.Conv2D(4, 1, name="a")(image))
    model = keras.Model(image, layers.Conv2D(2, 1, name="head")(x))
    costs = layer_costs(model, 8, 8)
    assert {cost.name: cost.macs for cost in costs} == {
        "a": 64 * 3 * 4,
        "up": 64 * 3 * 3 * 4 * 5,
        "head": 256 * 5 * 2,
    }
    assert sum(item.macs for item in active_by_weights(model, costs)) == sum(cost.macs for cost in costs)


def test_a_separable_convolution_needs_its_active_channels() -> None:
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 1, use_bias=False, name="a")(image)
    x = layers.SeparableConv2D(6, 3, padding="same", use_bias=False, name="b")(x)
    model = keras.Model(image, layers.Conv2D(2, 1, name="head")(x))
    without_filters(model, "a", [1])
    kernel = np.asarray(model.get_layer("b").pointwise_kernel).copy()
    kernel[..., :2] = 0
    model.get_layer("b").pointwise_kernel.assign(kernel)
    found = {item.name: item for item in active_by_weights(model, layer_costs(model, 8, 8))}
    assert found["b"].macs == pytest.approx(64 * 3 * (9 + 4))
    assert (found["b"].channels, found["b"].active) == (6, 4)
