import keras
import numpy as np
import pytest
from keras import layers

from lib.errors import ConfigError, ModelError
from lib.pruning.graph.channels import ChannelGraph


def _classes(graph: ChannelGraph, name: str) -> list[int]:
    """The classes of the channels that a layer makes or hands on."""
    port = next(port for port in graph.ports.values() if port.layer.name == name)
    return [int(label) for label in graph.class_of[port.outward]]


def test_channels_keep_their_identity_through_concatenation_norm_and_flatten() -> None:
    image = keras.Input((4, 4, 3))
    a, b = layers.Conv2D(2, 1, name="a")(image), layers.Conv2D(3, 1, name="b")(image)
    x = layers.BatchNormalization(name="norm")(layers.Concatenate(name="joined")([a, b]))
    x = layers.MaxPooling2D(2)(layers.ReLU()(x))
    model = keras.Model(image, layers.Dense(2, name="head")(layers.Flatten(name="flat")(x)))
    graph = ChannelGraph(model)
    joined = _classes(graph, "a") + _classes(graph, "b")
    assert _classes(graph, "norm") == joined
    assert _classes(graph, "flat") == joined * 4
    assert len(set(joined)) == 5
    assert not set(joined) & set(graph.reasons)
    assert {graph.reasons[label] for label in _classes(graph, "head")} == {"reaches the output"}


def test_a_depthwise_convolution_ties_out_to_in_whatever_its_multiplier() -> None:
    image = keras.Input((4, 4, 3))
    x = layers.Conv2D(2, 1, name="a")(image)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")(x)
    graph = ChannelGraph(keras.Model(image, layers.Conv2D(1, 1)(x)))
    first, second = _classes(graph, "a")
    assert _classes(graph, "depthwise") == [first, first, second, second]


def test_a_grouped_convolution_keeps_its_groups_alike() -> None:
    image = keras.Input((4, 4, 3))
    x = layers.Conv2D(6, 1, name="a")(image)
    x = layers.Conv2D(4, 1, groups=2, name="grouped")(x)
    graph = ChannelGraph(keras.Model(image, layers.Conv2D(1, 1)(x)))
    for name, half in (("a", 3), ("grouped", 2)):
        classes = _classes(graph, name)
        assert classes[:half] == classes[half:]
        assert len(set(classes)) == half


def test_all_calls_of_a_shared_layer_are_tied() -> None:
    image = keras.Input((4, 4, 3))
    shared = layers.Conv2D(4, 1, name="shared")
    a, b = layers.Conv2D(2, 1, name="a")(image), layers.Conv2D(2, 1, name="b")(image)
    model = keras.Model(image, [layers.Conv2D(1, 1)(shared(a)), layers.Conv2D(1, 1)(shared(b))])
    graph = ChannelGraph(model)
    assert _classes(graph, "a") == _classes(graph, "b")


def _squeeze_excite(gate: str, product: bool) -> keras.Model:
    image = keras.Input((4, 4, 3))
    x = layers.Conv2D(6, 1, name="x")(image)
    squeezed = layers.Reshape((1, 1, 6))(layers.GlobalAveragePooling2D()(x))
    squeezed = layers.Conv2D(2, 1, activation="relu", name="reduce")(squeezed)
    weights = layers.Conv2D(6, 1, activation=gate, name="expand")(squeezed)
    x = layers.Multiply()([x, weights]) if product else layers.Add()([x, weights])
    return keras.Model(image, layers.Conv2D(1, 1, name="head")(x))


def test_a_gate_is_tied_to_what_it_multiplies() -> None:
    graph = ChannelGraph(_squeeze_excite("sigmoid", product=True))
    assert _classes(graph, "x") == _classes(graph, "expand")
    assert not set(_classes(graph, "x")) & set(graph.reasons)


@pytest.mark.parametrize(("gate", "stays"), [("sigmoid", True), ("tanh", False), ("softplus", True), ("swish", False)])
def test_channels_that_are_not_zero_when_masked_must_stay(gate: str, stays: bool) -> None:
    graph = ChannelGraph(_squeeze_excite(gate, product=False))
    reasons = {graph.reasons.get(label) for label in _classes(graph, "x")}
    expected = "head reads it as a constant that is not zero when it is masked" if stays else None
    assert reasons == {expected}


def test_a_norm_makes_up_for_an_activation_unless_it_has_no_gamma() -> None:
    for scale in (True, False):
        image = keras.Input((4, 4, 3))
        x = layers.Conv2D(4, 1, activation="sigmoid", name="a")(image)
        x = layers.BatchNormalization(scale=scale)(x)
        graph = ChannelGraph(keras.Model(image, layers.Conv2D(1, 1)(x)))
        assert all((label in graph.reasons) != scale for label in _classes(graph, "a"))


def test_protected_layers_keep_what_they_read_and_make() -> None:
    image = keras.Input((4, 4, 3))
    x = layers.Conv2D(4, 1, name="a")(image)
    x = layers.Conv2D(4, 1, name="b")(x)
    x = layers.Lambda(lambda x: x * 2, name="strange")(x)
    x = layers.Conv2D(4, 1, name="c")(x)
    model = keras.Model(image, layers.Conv2D(1, 1, name="head")(x))
    with pytest.raises(ModelError, match=r"strange \(Lambda, call 3 of 5, behind b\)"):
        ChannelGraph(model)
    graph = ChannelGraph(model, protected=("strange",))
    free = [name for name in ("a", "b", "c") if not set(_classes(graph, name)) & set(graph.reasons)]
    assert free == ["a", "c"]
    graph = ChannelGraph(model, protected=("strange", "c*"))
    assert {graph.reasons[label] for label in _classes(graph, "c")} == {"c is protected"}
    with pytest.raises(ConfigError, match="no layer is called 'odd"):
        ChannelGraph(model, protected=("odd*",))


def test_layers_before_the_first_and_behind_the_last_convolution_may_be_anything() -> None:
    image = keras.Input((4, 4, 3))
    x = layers.Normalization(mean=[1.0, 2, 3], variance=[1.0, 1, 1])(image)
    x = layers.Conv2D(4, 1, name="a")(x)
    x = layers.Conv2D(2, 1, name="head")(x)
    graph = ChannelGraph(keras.Model(image, layers.Softmax()(layers.Permute((3, 1, 2))(x))))
    assert not set(_classes(graph, "a")) & set(graph.reasons)
    assert set(_classes(graph, "head")) <= set(graph.reasons)


def test_nested_models_are_read() -> None:
    inside = keras.Input((None, None, 4))
    inner = keras.Model(inside, layers.Conv2D(5, 1, name="inner_conv")(inside))
    image = keras.Input((4, 4, 3))
    x = inner(layers.Conv2D(4, 1, name="a")(image))
    graph = ChannelGraph(keras.Model(image, layers.Conv2D(1, 1)(x)))
    port = next(port for port in graph.ports.values() if port.layer.name == "inner_conv")
    assert port.inward is not None
    np.testing.assert_array_equal(graph.class_of[port.inward], _classes(graph, "a"))
    assert not set(_classes(graph, "inner_conv")) & set(graph.reasons)
