import keras
import numpy as np
import pytest
from keras import layers

from lib.pruning import apply_masks, channel_sets, plan
from lib.pruning.activity import active_by_weights, active_on_images, cost_report
from lib.pruning.cost import layer_costs
from tests.detectors import published_detector, random_detector


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


def test_eresfd_costs_what_was_published() -> None:
    from lib.models import build

    report = cost_report(build("eresfd"), 480, 640)
    assert report["parameters"] == 92_208
    assert round(report["macs"] / 1e6, 2) == 295.07
    assert report["macs_by_filters"] == report["macs_not_silent"] == report["full_macs"] == report["macs"]
    assert sum(row["macs"] for row in report["layers"]) == report["macs"]


def test_percentages_refer_to_the_full_model() -> None:
    from lib.models import build

    full, half = build("eresfd"), build("eresfd", width_mult=0.03125)
    report = cost_report(half, 480, 640, full)
    assert report["full_macs"] == cost_report(full, 480, 640)["macs"] > 3 * report["macs"]


@pytest.mark.parametrize(
    ("name", "zeros"),
    [
        ("original", 0.0009),
        ("10-pruned", 0.1024),
        ("20-pruned", 0.2228),
        ("30-pruned", 0.3160),
        ("40-pruned", 0.4002),
        ("50-pruned", 0.5037),
        ("60-pruned", 0.5987),
    ],
)
def test_published_models_have_the_known_zeros(name: str, zeros: float) -> None:
    report = cost_report(published_detector(f"bfpgm/EResFD-{name}.pth"), 480, 640)
    assert report["zero_share"] == pytest.approx(zeros, abs=2e-4)
    # The published pipeline leaves the batch norms, so that nothing is gone.
    assert report["macs_by_filters"] <= report["macs_not_silent"] == report["macs"]
