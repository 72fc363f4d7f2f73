from collections.abc import Callable
from typing import Any

import keras
import pytest
from keras import layers

from lib.errors import ConfigError
from lib.models import build
from lib.pruning.graph.channels import ChannelGraph
from lib.pruning.graph.sets import SetMap
from lib.pruning.graph.silence import Silence, silence


def _emptied(model: keras.Model, *names: str) -> tuple[ChannelGraph, Silence]:
    graph = ChannelGraph(model)
    placed = SetMap(graph, "removable")
    sizes = {found.item.name: found.item.size for found in placed.sets}
    channels = {name: tuple(range(size)) if name in names else () for name, size in sizes.items()}
    assert set(names) <= set(sizes)
    return graph, silence(graph, placed.off(channels))


def _dead_names(graph: ChannelGraph, found: Silence) -> set[str]:
    return {graph.steps[position].layer.name for position in found.dead}


def test_a_block_without_inner_channels_is_silent_and_its_addition_goes_on() -> None:
    graph, found = _emptied(build("eresfd", width_mult=4 / 256), "conv4_conv1")
    parts = ("conv1", "conv1_bn", "conv1_relu", "conv2", "conv2_bn")
    assert _dead_names(graph, found) == {f"conv4_{part}" for part in parts}
    layers_off = {port.layer.name: found.off.get(id(port.layer)) for port in graph.ports.values()}
    silenced = {name for name, off in layers_off.items() if off is not None and off.all()}
    assert silenced == {"conv4_conv1", "conv4_conv1_bn", "conv4_conv2", "conv4_conv2_bn"}
    assert not found.scaled


def test_what_hangs_on_an_empty_branch_goes_up_to_the_merge() -> None:
    graph, found = _emptied(build("eresfd", width_mult=4 / 256), "context2_branch2b")
    dead = {name for name in _dead_names(graph, found) if not name.endswith(("_bn", "_relu"))}
    hanging = {"context2_branch2b", "context2_branch3a", "context2_branch3b"}
    assert dead == hanging | {"context2_branch2a"}  # which nothing reads any more


def _model(body: Callable[[Any, Any], Any]) -> keras.Model:
    """image -> a -> x; a -> inner -> y, whose channels are those of x; body(x, y) -> head."""
    image = keras.Input((4, 4, 3))
    x = layers.Conv2D(6, 1, name="a")(image)
    y = layers.Conv2D(6, 1, name="y")(layers.Conv2D(2, 1, name="inner")(x))
    return keras.Model(image, layers.Conv2D(2, 1, name="head")(body(x, y)))


def test_a_product_with_an_empty_factor_is_silent() -> None:
    def body(x: Any, y: Any) -> Any:
        return layers.Add(name="sum")([layers.Conv2D(6, 1, name="behind")(layers.Multiply(name="product")([x, y])), x])

    graph, found = _emptied(_model(body), "inner")
    assert _dead_names(graph, found) == {"inner", "y", "product", "behind"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (lambda _, y: y, r"head \(Conv2D\) reaches an output"),
        (lambda x, y: layers.Maximum(name="merge")([x, y]), "merge .* cannot go on without one"),
        (lambda x, y: layers.Multiply(name="merge")([x, layers.Activation("sigmoid")(y)]), "merge .* multiply by"),
        (lambda x, y: layers.Add(name="merge")([x, layers.Activation("sigmoid")(y)]), "merge .* add a constant"),
        (
            lambda x, y: layers.Add()([layers.Concatenate(name="merge")([y, x]), layers.Conv2D(12, 1)(x)]),
            "merge .* tied to channels elsewhere",
        ),
    ],
)
def test_where_a_branch_cannot_go(body: Callable[[Any, Any], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _emptied(_model(body), "inner")


def test_a_shared_layer_goes_everywhere_or_nowhere() -> None:
    shared = layers.Conv2D(6, 1, name="shared")

    def body(x: Any, y: Any) -> Any:
        return layers.Add()([layers.Conv2D(6, 1)(shared(x)), layers.Conv2D(6, 1)(shared(y))])

    with pytest.raises(ConfigError, match=r"shared .* several places"):
        _emptied(_model(body), "inner")
