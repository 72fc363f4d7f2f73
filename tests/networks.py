"""Networks for tests of pruning: nothing in them is zero or one, and what comes out is of the order of one."""

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import layers

from lib.geometry.anchors import AnchorSpec
from lib.models.layers import ConcatenateAnchors
from lib.pruning import ChannelSet, Cost, CostModel, Masks, apply_masks, largest_difference, shrink
from lib.pruning.cost import count_macs, count_parameters


def lively(model: keras.Model, random: np.random.Generator, side_px: int = 64) -> keras.Model:
    """The model with random biases, gammas and betas, and batch statistics that fit them."""
    all_layers = model._flatten_layers()
    norms = [layer for layer in all_layers if isinstance(layer, layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    for weight in model.trainable_weights:
        if weight.name == "gamma":
            weight.assign(random.uniform(0.7, 1.3, weight.shape) * random.choice([-1, 1], weight.shape))
        elif len(weight.shape) == 1:
            weight.assign(np.asarray(weight) + random.normal(0, 0.3, weight.shape))
    model(random.uniform(0, 255, (4, side_px, side_px, 3)).astype(np.float32), training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        # Of few positions a variance can come out next to nothing, and what it divides next to infinite.
        norm.moving_variance.assign(np.maximum(np.asarray(norm.moving_variance), 0.1))
    return model


def randomised(model: keras.Model, random: np.random.Generator) -> keras.Model:
    """The model with random weights and statistics of every kind; for inputs of any shape."""
    for weight in model.weights:
        if weight.name in ("gamma", "scale"):
            weight.assign(random.uniform(0.7, 1.3, weight.shape) * random.choice([-1, 1], weight.shape))
        elif weight.name == "moving_variance":
            weight.assign(random.uniform(0.5, 1.5, weight.shape))
        elif len(weight.shape) > 1:
            weight.assign(random.normal(0, max(1, np.prod(weight.shape[:-1])) ** -0.5, weight.shape))
        elif weight.dtype.startswith("float"):
            weight.assign(random.normal(0, 0.3, weight.shape))
    return model


def detector(backbone: keras.Model, names: tuple[str, ...]) -> keras.Model:
    """A detector of four levels, strides 4 to 32, whose heads read these layers of a backbone."""
    anchors = AnchorSpec(strides=(4, 8, 16, 32), sizes=(16, 32, 64, 128))
    boxes: list[Any] = []
    scores: list[Any] = []
    for name in names:
        features = backbone.get_layer(name).output
        features = layers.Conv2D(8, 3, padding="same", activation="relu", name=f"{name}_shared")(features)
        for level, channels in ((boxes, 4), (scores, 2)):
            head = layers.Conv2D(channels, 3, padding="same", name=f"{name}_head{channels}")(features)
            level.append(layers.Reshape((-1, channels), name=f"{name}_flat{channels}")(head))
    outputs = {
        "boxes": ConcatenateAnchors(anchors.to_dict(), name="boxes")(boxes),
        "scores": layers.Concatenate(axis=1, name="scores")(scores),
    }
    return keras.Model(backbone.input, outputs, name=f"{backbone.name}_detector")


def random_masks(sets: list[ChannelSet], random: np.random.Generator, emptied: tuple[str, ...] = ()) -> Masks:
    """Any number of channels of every set, all of those in `emptied`."""
    channels: dict[str, tuple[int, ...]] = {}
    for item in sets:
        count = item.size if item.name in emptied else int(random.integers(item.size))
        channels[item.name] = tuple(sorted(random.permutation(item.size)[:count].tolist()))
    return Masks("removable", channels)


def copy_of(model: keras.Model) -> keras.Model:
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def magnitude(model: keras.Model, inputs: Any) -> float:
    """The largest absolute value of any output."""
    return max(float(np.abs(np.asarray(output)).max()) for output in keras.tree.flatten(model(inputs, training=False)))


def masked_and_smaller(
    model: keras.Model, masks: Masks, inputs: Any, tolerance: float
) -> tuple[keras.Model, keras.Model]:
    """The masked and the shrunk model, which compute the same: to `tolerance` of the largest output, of 1 at least."""
    masked = copy_of(model)
    apply_masks(masked, masks)
    small = shrink(model, masks)
    scale = max(1.0, magnitude(masked, inputs))
    assert scale < 1e3
    assert largest_difference(masked, small, inputs) <= tolerance * scale
    return masked, small


def assert_costs_what_was_predicted(
    cost: CostModel, masks: Masks, small: keras.Model, height_px: int, width_px: int
) -> None:
    kept = {item.name: item.size - len(masks.channels[item.name]) for item in cost.sets}
    assert cost.of(kept) == Cost(count_parameters(small), count_macs(small, height_px, width_px))


def _separable(x: Any) -> Any:
    x = layers.SeparableConv2D(8, 3, padding="same", name="separable")(x)
    return layers.ReLU()(layers.BatchNormalization(name="separable_bn")(x))


def _residual(x: Any) -> Any:
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="stem")(x)
    y = layers.Conv2D(8, 3, padding="same", use_bias=False, name="branch")(x)
    return layers.ReLU()(layers.Add()([x, layers.BatchNormalization(name="branch_bn")(y)]))


def _depthwise(x: Any) -> Any:
    x = layers.Conv2D(8, 1, name="before")(x)
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(x)
    return layers.ReLU(6.0)(layers.BatchNormalization(name="depthwise_bn")(x))


def _gated(x: Any) -> Any:
    """A gate of bare operations."""
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="gated")(x)
    x = layers.ReLU()(layers.BatchNormalization(name="gated_bn")(x))
    gate = layers.Conv2D(8, 1, name="gate")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    return x * (layers.ReLU(6.0)(gate + 3.0) * (1.0 / 6.0))


_BODIES = (_separable, _residual, _depthwise, _gated)


def _network(body: Callable[[Any], Any], depth: int, side: int = 16) -> keras.Model:
    """image -> first -> body -> head; the body in so many models, one in the other."""
    image = keras.Input((side, side, 3))
    x = layers.Conv2D(6, 3, padding="same", activation="relu", name="first")(image)
    made = body
    for level in range(depth):
        inside = keras.Input((None, None, 6))
        made = keras.Model(inside, made(inside), name=f"nested{level}")
    model = keras.Model(image, layers.Conv2D(2, 1, name="head")(made(x)))
    return lively(model, np.random.default_rng(0), side)


def nested_networks() -> dict[str, Callable[[], keras.Model]]:
    """Builders of networks by name: every body flat, in a nested model, and in a nested model of a nested model."""
    return {
        f"{body.__name__.removeprefix('_')}, nested {depth}": partial(_network, body, depth)
        for body in _BODIES
        for depth in range(3)
    }
