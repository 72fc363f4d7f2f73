from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from lib.errors import DataError
from lib.models.layers import WeightedFusion
from lib.pruning import Masks, channel_sets, largest_difference, plan, recalibrate, repair, shrink
from tests.detectors import random_detector, random_dsfd, small_detector
from tests.networks import copy_of, lively, randomised


def _images(count: int = 6, side: int = 32, seed: int = 0) -> list[Any]:
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (side, side + 4 * index, 3), np.uint8) for index in range(count)]


def _conv(x: Any, name: str, norm: bool = True, **options: Any) -> Any:
    x = layers.Conv2D(8, 3, padding="same", name=name, **options)(x)
    x = layers.BatchNormalization(name=f"{name}_bn")(x) if norm else x
    return layers.ReLU(name=f"{name}_relu")(x)


def _network(kind: str) -> keras.Model:
    keras.utils.set_random_seed(0)
    image = keras.Input((None, None, 3))
    x = _conv(layers.Rescaling(1 / 64, offset=-2)(image), "first", norm=kind != "no_norm")
    match kind:
        case "plain" | "no_norm":
            x = _conv(x, "second", norm=kind == "plain", strides=2)
        case "depthwise":
            x = layers.BatchNormalization()(layers.DepthwiseConv2D(3, name="depthwise")(x))
        case "separable":
            x = layers.ReLU()(layers.SeparableConv2D(8, 3, strides=2, padding="same", name="separable")(x))
        case "residual":
            x = layers.Add()([x, _conv(_conv(x, "second"), "third")])
            x = layers.Add()([layers.Conv2D(8, 1, name="shortcut")(x), layers.Conv2D(8, 3, padding="same")(x)])
        case "fusion":
            a, b = _conv(x, "second"), layers.Conv2D(8, 3, padding="same", name="third")(x)
            x = WeightedFusion()([a, b])
        case "joined":
            x = layers.Concatenate()([x, _conv(x, "second", dilation_rate=2)])
        case "shared":
            again = layers.Conv2D(8, 3, padding="same", activation="relu", name="again")
            x = layers.Add()([again(x), again(layers.MaxPooling2D(3, 1, padding="same")(x))])
        case "nested":
            inner = keras.Input((None, None, 8))
            x = keras.Model(inner, _conv(inner, "inner"), name="nest")(x)
        case "norm_alone":
            x = layers.Add()([x, layers.Conv2D(8, 1, name="second")(x)])
            x = layers.ReLU()(layers.BatchNormalization(name="alone")(x))
        case "dense":
            x = layers.Dense(16, activation="relu", name="hidden")(layers.GlobalAveragePooling2D()(x))
            return lively(keras.Model(image, layers.Dense(4, name="out")(x)), np.random.default_rng(0), 32)
    return lively(keras.Model(image, layers.Conv2D(4, 1, name="out")(x)), np.random.default_rng(0), 32)


KINDS = (
    "plain no_norm depthwise separable residual fusion joined shared nested norm_alone dense".split()  # noqa: SIM905
)


@pytest.mark.parametrize("kind", KINDS)
def test_no_layer_gets_worse_and_the_output_gets_nearer(kind: str) -> None:
    model = _network(kind)
    masks = plan(model, 0.4)
    small = shrink(model, masks)
    bare = copy_of(small)
    images = _images()
    report = repair(model, small, masks, images, ridge=1e-5)
    assert report.layers
    assert not report.left
    for layer in report.layers:
        assert layer.after <= layer.before + 1e-9, layer

    def error(other: keras.Model) -> float:
        pairs = [(np.asarray(model(i[None] * 1.0)), np.asarray(other(i[None] * 1.0))) for i in images]
        return sum(float(np.square(a - b).sum()) for a, b in pairs)

    assert error(small) < error(bare)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_masked_leaves_every_weight(kind: str) -> None:
    model = _network(kind)
    masks = Masks("removable", {item.name: () for item in channel_sets(model)})
    small = shrink(model, masks)
    before = small.get_weights()
    assert repair(model, small, masks, _images(2)).layers == ()
    for a, b in zip(before, small.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_channel_that_is_there_twice_is_not_missed() -> None:
    model = _network("plain")
    for weight in (*model.get_layer("first").weights, *model.get_layer("first_bn").weights):
        value = np.array(weight)
        value[..., 5] = value[..., 2]
        weight.assign(value)
    masks = Masks("removable", {item.name: (5,) if item.name == "first" else () for item in channel_sets(model)})
    small = shrink(model, masks)
    image = _images(1)[0][None].astype(np.float32)
    bare = largest_difference(model, small, image)
    repair(model, small, masks, _images(), ridge=1e-8, before_relu=False)
    assert bare > 0.1
    assert largest_difference(model, small, image) < 1e-3


def test_the_seed_decides() -> None:
    model = lively(small_detector(), np.random.default_rng(0))
    masks = plan(model, 0.25)
    boxes = [np.array([[4.0, 4, 20, 24]])] * 3
    made = []
    for _ in range(2):
        small = shrink(model, masks)
        repair(model, small, masks, _images(3, 64), boxes, positions_per_layer=300, seed=3)
        made.append(small.get_weights())
    for a, b in zip(*made, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("emptied", ["stage2_block1_conv1", "lateral1"])
def test_whole_branches_may_be_gone(emptied: str) -> None:
    model = random_detector()
    sets = {item.name: item for item in channel_sets(model)}
    channels: dict[str, tuple[int, ...]] = {name: (0,) if item.size > 1 else () for name, item in sets.items()}
    found = next(name for name, item in sets.items() if emptied in item.convolutions)
    if len(sets[found].convolutions) == 1:
        channels[found] = tuple(range(sets[found].size))
    masks = Masks("removable", channels)
    small = shrink(model, masks)
    report = repair(model, small, masks, _images(2, 64))
    assert report.layers
    assert all(np.isfinite(weight).all() for weight in small.get_weights())


def test_dsfd_is_repaired() -> None:
    model = random_dsfd()
    masks = plan(model, 0.25)
    small = shrink(model, masks)
    report = repair(model, small, masks, _images(1, 64), positions_per_layer=200)
    assert all(layer.after <= layer.before + 1e-9 for layer in report.layers)
    assert all(np.isfinite(weight).all() for weight in small.get_weights())


def test_few_positions_are_named_and_grey_images_taken() -> None:
    model = _network("plain")
    masks = plan(model, 0.4)
    small = shrink(model, masks)
    report = repair(model, small, masks, [np.full((20, 20), 9, np.uint8)], positions_per_layer=10)
    assert "second" in report.underdetermined
    assert all(np.isfinite(weight).all() for weight in small.get_weights())


def test_a_layer_without_a_rule_is_left_as_it_is_and_named() -> None:
    image = keras.Input((None, None, 3))
    x = _conv(layers.Rescaling(1 / 64, offset=-2)(image), "first")
    x = _conv(layers.PReLU(shared_axes=[1, 2], name="slope")(x), "second")
    model = lively(keras.Model(image, layers.Conv2D(4, 1, name="out")(x)), np.random.default_rng(0), 32)
    masks = plan(model, 0.4)
    small = shrink(model, masks)
    slope = np.array(small.get_layer("slope").alpha)
    report = repair(model, small, masks, _images(2))
    assert report.left == ("slope",)
    assert [layer.name for layer in report.layers] == ["second", "out"]
    np.testing.assert_array_equal(small.get_layer("slope").alpha, slope)


def test_unfit_images_are_refused() -> None:
    model = _network("plain")
    masks = plan(model, 0.4)
    small = shrink(model, masks)
    with pytest.raises(DataError, match="needs images"):
        repair(model, small, masks, [])
    with pytest.raises(DataError, match="one array for each image"):
        repair(model, small, masks, _images(2), [np.zeros((0, 4))])
    with pytest.raises(DataError, match="without an image"):
        recalibrate(small, [])


def test_recalibrated_statistics_are_those_of_the_image() -> None:
    model = _network("plain")
    image = _images(1)[0]
    recalibrate(model, [image])
    read = keras.Model(model.inputs, model.get_layer("first").output)(image[None] * 1.0)
    norm = model.get_layer("first_bn")
    np.testing.assert_allclose(norm.moving_mean, np.mean(read, (0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(norm.moving_variance, np.var(read, (0, 1, 2)), rtol=1e-3)


def test_small_images_are_seen_together_when_they_are_recalibrated_on() -> None:
    image = keras.Input((4, 4, 3))
    x = layers.BatchNormalization(name="first_bn")(layers.GlobalAveragePooling2D(keepdims=True)(image))  # one position
    x = layers.BatchNormalization(name="second_bn")(layers.Conv2D(5, 1)(x))
    one, other = (keras.Model(image, x), keras.Model(image, x))
    batch = np.random.default_rng(0).normal(size=(70, 4, 4, 3)).astype(np.float32)
    recalibrate(one, list(batch[:64]))
    alone = [np.asarray(weight) for weight in one.weights]
    recalibrate(other, [batch[:64]])
    for ours, theirs in zip(alone, other.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    recalibrate(one, [*batch, batch[:2, :, :, ::-1]])  # 64, six, and a batch as it is
    mean = np.average([batch[:64].mean((0, 1, 2)), batch[64:].mean((0, 1, 2)), batch[:2].mean((0, 1, 2))[::-1]],
                      axis=0, weights=[64, 6, 1])  # fmt: skip
    np.testing.assert_allclose(one.get_layer("first_bn").moving_mean, mean, atol=1e-5)


def test_moving_statistics_go_on_as_training_would() -> None:
    one, other = _network("plain"), _network("plain")
    batches = [np.stack(_images(2, seed=seed)[:1] * 2) for seed in range(3)]
    recalibrate(one, batches, window_px=(8, 8), moving=True)
    for batch in batches:
        other(batch, training=True)
    for ours, theirs in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_layers_without_a_rule_are_left_and_named_and_operations_are_put_for_fewer_channels() -> None:
    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, padding="same", name="first")(image)
    x = x[..., :4] * keras.ops.sigmoid(x[..., 4:]) * np.linspace(0.5, 1.5, 4, dtype=np.float32)
    x = layers.Conv2DTranspose(6, 2, strides=2, activation="relu", name="up")(x)
    x = layers.GroupNormalization(3, name="groups")(x)
    model = randomised(keras.Model(image, layers.Conv2D(4, 1, name="out")(x)), np.random.default_rng(0))
    masks = plan(model, 0.4)
    small = shrink(model, masks)
    images = np.random.default_rng(1).normal(0, 1, (4, 16, 16, 3)).astype(np.float32)
    before = largest_difference(model, small, images)
    report = repair(model, small, masks, [images])
    assert [layer.name for layer in report.layers] == ["out"]
    assert report.left == ("up", "groups")
    assert largest_difference(model, small, images) < before


def test_inputs_by_name_in_any_order() -> None:
    image, numbers = keras.Input((8, 8, 3), name="b"), keras.Input((5,), name="a")
    norm = layers.BatchNormalization()
    x = layers.GlobalMaxPooling2D()(norm(layers.Conv2D(4, 3)(image)))
    model = keras.Model({"b": image, "a": numbers}, layers.Concatenate()([x, numbers]))
    before = np.asarray(norm.moving_mean).copy()
    recalibrate(model, [{"b": np.ones((2, 8, 8, 3)), "a": np.zeros((2, 5))}])
    assert (np.asarray(norm.moving_mean) != before).any()
