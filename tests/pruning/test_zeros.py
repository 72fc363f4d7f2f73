from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from lib.pruning import largest_difference, removable_part, shrink
from lib.pruning.cost import count_parameters
from lib.pruning.graph.channels import ChannelGraph
from lib.pruning.graph.sets import SetMap
from lib.pruning.zeros import CONSTANT, LAST, MUST_STAY, OTHER_WRITERS, REMOVABLE, silent_channels
from tests.networks import lively


def _residual() -> keras.Model:
    """image -> a -> relu -> x; x + (b -> norm) -> relu -> c -> norm -> relu -> head."""
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="a")(image)
    y = layers.BatchNormalization(name="b_norm")(layers.Conv2D(4, 3, padding="same", use_bias=False, name="b")(x))
    x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.Conv2D(5, 3, use_bias=False, name="c")(x)
    x = layers.ReLU()(layers.BatchNormalization(name="c_norm")(x))
    model = keras.Model(image, layers.Conv2D(2, 3, name="head")(x))
    return lively(model, np.random.default_rng(0), 8)


def _zero(model: keras.Model, name: str, channel: int) -> None:
    kernel = np.asarray(model.get_layer(name).kernel).copy()
    kernel[..., channel] = 0
    model.get_layer(name).kernel.assign(kernel)


def _set(variable: keras.Variable, channel: int, value: float) -> None:
    values = np.asarray(variable).copy()
    values[channel] = value
    variable.assign(values)


def _outcomes(model: keras.Model) -> dict[tuple[str, int], str]:
    return {(item.layer, item.channel): item.outcome for item in removable_part(model).zero_filters}


def _silence_norm(norm: Any, channel: int, offset: float) -> None:
    """Lets the norm make `offset` of a zero."""
    _set(norm.moving_mean, channel, 0.0)
    _set(norm.beta, channel, offset)


def test_reasons_one_by_one() -> None:
    model = _residual()
    for channel in range(4):
        _zero(model, "b", channel)
    _zero(model, "a", 1)
    _set(model.get_layer("a").bias, 1, -0.5)  # the ReLU makes a zero of it
    _silence_norm(model.get_layer("b_norm"), 1, -0.25)  # so does the one behind the addition
    _zero(model, "a", 2)
    _set(model.get_layer("a").bias, 2, -0.5)
    _silence_norm(model.get_layer("b_norm"), 2, 0.25)
    _zero(model, "head", 0)
    assert _outcomes(model) == {
        ("a", 1): REMOVABLE,
        ("b", 1): REMOVABLE,
        ("a", 2): CONSTANT,
        ("b", 2): CONSTANT,
        ("b", 0): OTHER_WRITERS,
        ("b", 3): OTHER_WRITERS,
        ("head", 0): MUST_STAY,
    }


def test_what_is_found_goes_without_a_trace(rng: np.random.Generator) -> None:
    model = _residual()
    for channel, offset in ((0, 0.0), (1, -1.0), (2, 0.5), (4, -0.1)):
        _zero(model, "c", channel)
        _silence_norm(model.get_layer("c_norm"), channel, offset)
    part = removable_part(model)
    assert part.masks.channels["c"] == (0, 1, 4)
    assert part.counts()[REMOVABLE] == 3
    assert part.counts()[CONSTANT] == 1
    small = shrink(model, part.masks)
    images = rng.uniform(0, 255, (2, 8, 8, 3)).astype(np.float32)
    assert largest_difference(model, small, images) < 1e-5
    assert count_parameters(small) < count_parameters(model)


def test_one_channel_stays_where_a_set_cannot_be_emptied() -> None:
    model = _residual()
    for channel in range(5):
        _zero(model, "c", channel)
        _silence_norm(model.get_layer("c_norm"), channel, 0.0)
    part = removable_part(model)
    assert part.masks.channels["c"] == (1, 2, 3, 4)
    assert part.counts()[LAST] == 1
    shrink(model, part.masks)


@pytest.mark.parametrize(("scale", "offset", "silent"), [(0.0, 0.0, True), (1e-30, -1e-38, True), (1e-3, 0.0, False)])
def test_a_filter_that_nothing_is_left_to_scale_is_silent(scale: float, offset: float, silent: bool) -> None:
    model = _residual()
    norm = model.get_layer("c_norm")
    _set(norm.gamma, 3, scale)
    _set(norm.beta, 3, offset)
    placed = SetMap(ChannelGraph(model), "removable")
    assert np.flatnonzero(silent_channels(placed)[placed.sets[1].slots]).tolist() == ([3] if silent else [])
    assert removable_part(model).masks.channels["c"] == ((3,) if scale == 0 else ())


def test_a_small_constant_is_not_silent() -> None:
    model = _residual()
    norm = model.get_layer("c_norm")
    _set(norm.gamma, 3, 1e-30)
    _set(norm.beta, 3, 1e-3)
    assert not silent_channels(SetMap(ChannelGraph(model), "removable")).any()


def test_zero_padding_makes_a_map_of_a_constant() -> None:
    image = keras.Input((8, 8, 3))
    x = layers.ZeroPadding2D(1)(layers.Conv2D(3, 1, name="a")(image))
    gate = layers.Conv2D(3, 1, name="gate", activation=lambda x: keras.ops.relu(x - 1))
    x = layers.Conv2D(2, 1, name="head")(gate(x))
    model = lively(keras.Model(image, x), np.random.default_rng(0), 8)
    _zero(model, "a", 0)
    _set(model.get_layer("a").bias, 0, 0.7)
    assert _outcomes(model) == {("a", 0): CONSTANT}
    _set(model.get_layer("a").bias, 0, 0.0)
    assert _outcomes(model) == {("a", 0): REMOVABLE}


@pytest.mark.parametrize("grouped", [False, True])
def test_filters_that_read_only_zeros_make_constants_too(grouped: bool) -> None:
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 1, name="a")(image)
    x = layers.Conv2D(4, 1, groups=2 if grouped else 1, name="b")(x)
    model = lively(keras.Model(image, layers.Conv2D(2, 1, name="head")(x)), np.random.default_rng(0), 8)
    for channel in (0, 1):
        _zero(model, "a", channel)
        _set(model.get_layer("a").bias, channel, 0.0)
    kernel = np.asarray(model.get_layer("b").kernel).copy()
    kernel[..., : 1 if grouped else 4, 0] = 0  # what is left of the filter reads channels that are zero
    _set(model.get_layer("b").bias, 0, 0.0)
    if not grouped:
        kernel[0, 0, :2, 0] = 7.0
    model.get_layer("b").kernel.assign(kernel)
    off = removable_part(model).masks.channels
    # In groups, channels go from both at once or not at all.
    assert off == ({"a": (), "b": ()} if grouped else {"a": (0, 1), "b": (0,)})


def test_constants_through_layers_with_slopes_of_their_own_are_not_guessed() -> None:
    image = keras.Input((8, 8, 3))
    a = layers.Conv2D(2, 1, name="a")(image)
    slopes = layers.PReLU(shared_axes=(1, 2), alpha_initializer=keras.initializers.Constant(0.5))
    b = layers.Conv2D(2, 1, name="b")(image)
    x = layers.Add()([slopes(a), b])
    model = keras.Model(image, layers.Conv2D(1, 1, name="head")(x))
    for name, bias in (("a", -1.0), ("b", 1.0)):  # the sum is 0.5, and would be 0 without the slope
        model.get_layer(name).set_weights([np.zeros((1, 1, 3, 2)), np.full(2, bias)])
    assert set(_outcomes(model).values()) == {CONSTANT}
