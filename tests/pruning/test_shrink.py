from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from lib.arrays import FloatArray
from lib.detection import FaceDetector
from lib.errors import ConfigError, ModelError
from lib.evaluation.equality import in_double_precision
from lib.models import anchors_of, build, load, save
from lib.pruning import (
    Cost,
    CostModel,
    Masks,
    apply_masks,
    channel_sets,
    largest_difference,
    plan,
    shrink,
)
from lib.pruning.cost import count_macs, count_parameters
from lib.pruning.shrink import take_over
from tests.detectors import golden_images, published_detector
from tests.networks import (
    assert_costs_what_was_predicted,
    copy_of,
    detector,
    lively,
    magnitude,
    masked_and_smaller,
    random_masks,
)

TOLERANCE = 1e-4


def _check(model: keras.Model, masks: Masks, inputs: Any, cost: CostModel | None = None) -> keras.Model:
    """Masked and shrunk model compute the same, and the shrunk one costs what was predicted; returns it."""
    _, small = masked_and_smaller(model, masks, inputs, TOLERANCE)
    if cost:
        assert_costs_what_was_predicted(cost, masks, small, 64, 64)
    return small


def _images(random: np.random.Generator, height: int = 64, width: int = 64) -> np.ndarray:
    return random.uniform(0, 255, (2, height, width, 3)).astype(np.float32)


def _eresfd_masks(model: keras.Model, random: np.random.Generator) -> Masks:
    """Any channels of any set; in half of all cases branches are emptied too."""
    sets = channel_sets(model)
    emptied: list[str] = []
    if random.random() < 0.5:
        inner = [item.name for item in sets if item.name.endswith("_conv1")]
        branches = [item.name for item in sets if item.name.startswith("context") and "branch1" not in item.name]
        emptied = [name for name in inner if random.random() < 0.4] + [n for n in branches if random.random() < 0.1]
    return random_masks(sets, random, tuple(emptied))


def _eresfd_patterns(first: int, count: int) -> None:
    model = lively(build("eresfd", width_mult=8 / 256), np.random.default_rng(0), 128)
    cost = CostModel(model, 64, 64)
    for seed in range(first, first + count):
        random = np.random.default_rng(seed)
        masks = _eresfd_masks(model, random)
        small = _check(model, masks, _images(random, *random.integers(32, 97, 2)), cost)
        assert anchors_of(small) == anchors_of(model)


def test_masked_is_shrunk_for_eresfd() -> None:
    _eresfd_patterns(0, 3)


@pytest.mark.slow
def test_masked_is_shrunk_for_eresfd_at_twelve_patterns_more() -> None:
    _eresfd_patterns(1000, 12)


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_detections_on_photographs_are_the_same(rate: float) -> None:
    model = published_detector("eresfd/eresfd_16.pth")
    masks = plan(model, rate)
    masked = copy_of(model)
    apply_masks(masked, masks)
    small = shrink(model, masks)
    images = [np.asarray(keras.utils.load_img(path), np.uint8) for path in golden_images()]
    # Single precision rounds boxes of almost equal scores apart.
    _same_detections(in_double_precision(masked), in_double_precision(small), images)


def _same_detections(masked: keras.Model, small: keras.Model, images: Sequence[np.ndarray]) -> None:
    detectors = [FaceDetector(model) for model in (masked, small)]
    for image in images:
        _same_faces(*(detector(image, score_threshold=0.05) for detector in detectors))


def _same_faces(a: FloatArray, b: FloatArray) -> None:
    assert a.shape == b.shape
    np.testing.assert_allclose(a[:, :4], b[:, :4], atol=0.01)
    np.testing.assert_allclose(a[:, 4], b[:, 4], atol=TOLERANCE)


BACKBONES: dict[str, tuple[Callable[[], keras.Model], tuple[str, ...]]] = {
    "vgg16": (
        lambda: keras.applications.VGG16(include_top=False, weights=None, input_shape=(None, None, 3)),
        ("block3_conv3", "block4_conv3", "block5_conv3", "block5_pool"),
    ),
    "resnet50": (
        lambda: keras.applications.ResNet50(include_top=False, weights=None, input_shape=(None, None, 3)),
        ("conv2_block3_out", "conv3_block4_out", "conv4_block6_out", "conv5_block3_out"),
    ),
    "mobilenet_v2": (
        lambda: keras.applications.MobileNetV2(include_top=False, weights=None, alpha=0.35, input_shape=(64, 64, 3)),
        ("block_2_add", "block_5_add", "block_12_add", "out_relu"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_masked_is_shrunk_for_detectors_on_other_backbones(name: str) -> None:
    random = np.random.default_rng(0)
    make, names = BACKBONES[name]
    model = lively(detector(make(), names), random)
    cost = CostModel(model, 64, 64)
    for masks in (plan(model, 0.4), random_masks(channel_sets(model), random)):
        small = _check(model, masks, _images(random), cost)
    masked = copy_of(model)
    apply_masks(masked, masks)
    _same_detections(masked, small, [_images(random)[0].astype(np.uint8)])


def _network(body: Callable[[Any], Any], side: int | None = 16) -> keras.Model:
    image = keras.Input((side, side, 3))
    model = keras.Model(image, layers.Conv2D(2, 1, name="head")(body(image)))
    return lively(model, np.random.default_rng(0), 16)


def _conv_bn(x: Any, filters: int, name: str, **norm: Any) -> Any:
    x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=name)(x)
    return layers.ReLU()(layers.BatchNormalization(name=f"{name}_bn", **norm)(x))


def _squeeze_excite(image: Any) -> Any:
    x = _conv_bn(image, 8, "x")
    squeezed = layers.Reshape((1, 1, 8))(layers.GlobalAveragePooling2D()(x))
    squeezed = layers.Conv2D(4, 1, activation="swish", name="reduce")(squeezed)
    return layers.Multiply()([x, layers.Conv2D(8, 1, activation="sigmoid", name="expand")(squeezed)])


def _dense_block(image: Any) -> Any:
    x = _conv_bn(image, 6, "stem")
    for index in range(3):
        y = layers.ReLU()(layers.BatchNormalization(name=f"norm{index}")(x))
        x = layers.Concatenate()([x, layers.Conv2D(4, 3, padding="same", name=f"grow{index}")(y)])
    return x


def _pre_activation(image: Any) -> Any:
    x = layers.Conv2D(6, 3, name="stem")(image)
    for index in range(2):
        y = layers.ReLU()(layers.BatchNormalization(name=f"norm{index}")(x))
        x = layers.Add()([x, layers.Conv2D(6, 3, padding="same", name=f"out{index}")(_conv_bn(y, 5, f"in{index}"))])
    return layers.ReLU()(layers.BatchNormalization(name="last")(x))


def _dense_behind_flatten(image: Any) -> Any:
    x = layers.Concatenate()([_conv_bn(image, 4, "a"), _conv_bn(image, 3, "b")])
    x = layers.Flatten()(layers.AveragePooling2D(4)(x))
    x = layers.Dense(6, activation="relu", name="dense")(x)
    return layers.Reshape((1, 1, 6))(x)


def _shared(image: Any) -> Any:
    shared = layers.Conv2D(5, 3, padding="same", name="shared")
    a, b = shared(_conv_bn(image, 4, "a")), shared(_conv_bn(image, 4, "b"))
    return layers.Concatenate()([a, layers.MaxPooling2D(3, 1, padding="same")(b)])


def _nested(image: Any) -> Any:
    inside = keras.Input((None, None, 4))
    inner = keras.Model(inside, _conv_bn(inside, 6, "inner"), name="block")
    return inner(_conv_bn(image, 4, "a"))


def _mixture(image: Any) -> Any:
    x = layers.Conv2D(4, 3, padding="same", name="a")(image)
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, activation="relu6", name="depthwise")(x)
    x = layers.PReLU(shared_axes=(1, 2), alpha_initializer="random_uniform", name="prelu")(x)
    x = layers.SeparableConv2D(6, 3, depth_multiplier=2, padding="same", name="separable")(x)
    x = layers.Conv2D(8, 3, groups=2, padding="same", name="grouped")(layers.LeakyReLU()(x))
    x = layers.Maximum()([x, layers.Conv2D(8, 1, name="other")(x)])
    x = layers.UpSampling2D(2, interpolation="bilinear")(layers.MaxPooling2D()(x))
    return layers.Cropping2D(1)(layers.Average()([x, layers.Conv2D(8, 1, activation="elu", name="third")(x)]))


def _hard_gate(image: Any) -> Any:
    """MobileNetV3's squeeze-and-excite, whose gate is made of bare operations."""
    x = _conv_bn(image, 8, "x")
    gate = layers.Conv2D(8, 1, name="gate")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    return layers.Multiply()([x, layers.ReLU(6.0)(gate + 3.0) * (1.0 / 6.0)])


def _norms_without_gamma(image: Any) -> Any:
    x = _conv_bn(image, 6, "no_gamma", scale=False)
    x = _conv_bn(x, 6, "no_beta", center=False)
    return _conv_bn(x, 6, "neither", scale=False, center=False)


BODIES = [
    _squeeze_excite,
    _dense_block,
    _pre_activation,
    _dense_behind_flatten,
    _shared,
    _nested,
    _mixture,
    _norms_without_gamma,
    _hard_gate,
]


@pytest.mark.parametrize("body", BODIES)
def test_masked_is_shrunk_for_every_kind_of_layer(body: Callable[[Any], Any]) -> None:
    model = _network(body)
    cost = CostModel(model, 16, 16)
    assert cost.sets
    for seed in range(3):
        random = np.random.default_rng(seed)
        masks = random_masks(cost.sets, random)
        small = _check(model, masks, _images(random, 16, 16))
        kept = {item.name: item.size - len(masks.channels[item.name]) for item in cost.sets}
        assert cost.of(kept) == Cost(count_parameters(small), count_macs(small, 16, 16))
        # Had nothing been masked, this test could not fail.
        assert not any(masks.channels.values()) or largest_difference(model, small, _images(random, 16, 16)) > 1e-3


@pytest.mark.parametrize("body", BODIES)
def test_a_whole_model_takes_over_what_its_smaller_one_has_learnt(body: Callable[[Any], Any]) -> None:
    model, random = _network(body), np.random.default_rng(5)
    masks = random_masks(channel_sets(model), random)
    small = lively(shrink(model, masks), random, 16)
    images = _images(random, 16, 16)
    assert largest_difference(model, small, images) > 1e-3
    take_over(model, small, masks)
    apply_masks(model, masks)
    assert largest_difference(model, small, images) <= TOLERANCE * max(1.0, magnitude(small, images))


def test_only_a_models_own_smaller_one_is_taken_over() -> None:
    model, random = _network(_squeeze_excite), np.random.default_rng(5)
    masks, others = (random_masks(channel_sets(model), random) for _ in range(2))
    with pytest.raises(ModelError, match="in the smaller model, expected"):
        take_over(model, shrink(model, others), masks)


def test_emptied_sets_take_with_them_what_they_fed() -> None:
    def body(image: Any) -> Any:
        x = _conv_bn(image, 6, "stem")
        branch = layers.Conv2D(6, 3, padding="same", name="out")(_conv_bn(x, 5, "inner"))
        x = layers.Add(name="sum")([x, layers.BatchNormalization(name="out_bn")(branch)])
        side = _conv_bn(_conv_bn(x, 4, "side"), 3, "side_end")
        return layers.Concatenate(name="joined")([x, side])

    model = _network(body)
    masks = plan(model, {"inner": 1.0, "side": 1.0}, min_channels=0)
    small = _check(model, masks, _images(np.random.default_rng(0), 16, 16))
    left = {layer.name for layer in small.layers if layer.weights}
    assert left == {"stem", "stem_bn", "head"}
    assert not {"sum", "joined"} & {layer.name for layer in small.layers}


def test_a_fusion_with_one_operand_left_becomes_a_factor() -> None:
    from lib.models.layers import WeightedFusion

    def body(image: Any) -> Any:
        x = _conv_bn(image, 6, "stem")
        branch = layers.Conv2D(6, 3, padding="same", name="out")(_conv_bn(x, 5, "inner"))
        return WeightedFusion(name="fusion")([x, branch])

    model = _network(body)
    model.get_layer("fusion").fusion_weight.assign([0.9, 0.4])
    masks = plan(model, {"inner": 1.0}, min_channels=0)
    cost = CostModel(model, 64, 64)
    small = _check(model, masks, _images(np.random.default_rng(0), 16, 16), cost)
    assert isinstance(small.get_layer("fusion"), layers.Rescaling)
    assert CostModel(model, 16, 16).of({"inner": 0}).parameters == count_parameters(small)


def test_a_shrunk_model_is_a_model_like_any_other(tmp_path: Path) -> None:
    image = keras.Input((None, None, 3), name="image")
    x = _conv_bn(image, 6, "stem")
    y = layers.Conv2D(6, 3, padding="same", name="out")(_conv_bn(x, 5, "inner"))
    x = layers.Dropout(0.1)(layers.Add()([x, y]))
    outputs = {"boxes": layers.Conv2D(4, 1, name="b")(x), "scores": layers.Conv2D(2, 1, name="s")(x)}
    model = lively(keras.Model(image, outputs, name="small_one"), np.random.default_rng(0), 16)
    small = shrink(model, plan(model, {"inner": 1.0, "stem": 0.5}, min_channels=0))
    assert list(small.output) == list(model.output)
    assert (small.name, small.input.name) == ("small_one", "image")
    assert {layer.name for layer in small.layers} < {layer.name for layer in model.layers}
    save(small, tmp_path / "small.keras")
    images = _images(np.random.default_rng(1))
    assert largest_difference(small, load(tmp_path / "small.keras"), images) == 0
    again = shrink(small, plan(small, 0.5))
    assert count_parameters(again) < count_parameters(small)
    before = small.get_weights()
    small.compile("sgd", {"boxes": "mse", "scores": "mse"}, jit_compile=False)
    targets = {name: np.zeros(value.shape) for name, value in small(images).items()}
    small.fit(images, targets, verbose=0)
    assert any((a != b).any() for a, b in zip(before, small.get_weights(), strict=True))


def test_nothing_masked_is_the_same_model() -> None:
    model = _network(_mixture)
    same = shrink(model, plan(model, 0.0))
    assert [weight.path for weight in same.weights] == [weight.path for weight in model.weights]
    assert largest_difference(model, same, _images(np.random.default_rng(1), 16, 16)) == 0


def test_frozen_layers_stay_frozen() -> None:
    model = _network(_dense_block)
    model.get_layer("stem").trainable = False
    small = shrink(model, plan(model, 0.5))
    assert not small.get_layer("stem").trainable
    assert small.get_layer("grow0").trainable


def test_what_cannot_be_removed() -> None:
    model = _network(_dense_block)
    with pytest.raises(ModelError, match=r"masks of mode 'per_layer' .*removable_part"):
        shrink(model, plan(model, 0.5, mode="per_layer"))
    with pytest.raises(ModelError, match="another model"):
        shrink(model, plan(_network(_pre_activation), 0.5))
    with pytest.raises(ModelError, match="another model: stem has 6 channels"):
        shrink(model, Masks("removable", {**plan(model, 0.0).channels, "stem": (6,)}))
    with pytest.raises(ConfigError, match=r"head .* nothing would be left to feed it"):
        shrink(model, Masks("removable", {item.name: tuple(range(item.size)) for item in channel_sets(model)}))


def test_two_layers_of_one_name_are_refused() -> None:
    inside = keras.Input((None, None, 4))
    inner = keras.Model(inside, layers.Conv2D(6, 1, name="a")(inside), name="block")
    image = keras.Input((4, 4, 3))
    x = inner(layers.Conv2D(4, 1, name="a")(image))
    model = keras.Model(image, layers.Conv2D(1, 1, name="head")(x))
    with pytest.raises(ModelError, match="a: several layers"):
        shrink(model, Masks("removable", {"a": (0,), "a#2": (1,)}))
