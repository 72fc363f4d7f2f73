import keras
import pytest
from keras import layers

from lib.errors import ModelError
from lib.models import build
from lib.pruning import ChannelSet, channel_sets


def _writers(stage: int, blocks: int) -> set[str]:
    names = {f"stage{stage}_block0_shortcut", *(f"stage{stage}_block{b}_conv2" for b in range(blocks))}
    return names | {f"intermediate{stage - 1}"} if stage < 5 else names


def test_eresfds_tied_channels_are_the_known_ones() -> None:
    tied = {frozenset(item.convolutions) for item in channel_sets(build("eresfd")) if len(item.convolutions) > 1}
    assert tied == {
        frozenset({"conv3", "conv4_conv2"}),
        frozenset(_writers(1, 3)),
        frozenset(_writers(2, 3)),
        frozenset(_writers(3, 3)),
        frozenset(_writers(4, 2) | {"lateral0", "lateral1", "lateral2", "lateral3"}),
        frozenset(_writers(5, 2) | {"lateral4"}),
    }


def test_every_convolution_but_the_heads_is_in_one_set() -> None:
    model = build("eresfd")
    convolutions = {layer.name for layer in model.layers if isinstance(layer, layers.Conv2D)}
    heads = {name for name in convolutions if name.startswith("head")}
    for mode in ("removable", "per_layer"):
        members = [name for item in channel_sets(model, mode) for name in item.convolutions]
        assert sorted(members) == sorted(convolutions - heads)
        norms = [name for item in channel_sets(model, mode) for name in item.norms]
        assert sorted(norms) == sorted(f"{name}_bn" for name in members)


def test_small_graph_by_hand() -> None:
    image = keras.Input((16, 16, 3))
    a = layers.Conv2D(4, 3, name="a", padding="same")(image)
    b = layers.Conv2D(4, 3, name="b", padding="same")(layers.ReLU()(a))
    b = layers.BatchNormalization(name="b_bn")(b)
    c = layers.Conv2D(6, 1, name="c")(layers.Concatenate()([layers.Add()([a, b]), image]))
    out = layers.Conv2D(2, 1, name="head")(layers.MaxPooling2D()(c))
    model = keras.Model(image, out)
    assert channel_sets(model) == [
        ChannelSet("a", 4, ("a", "b"), ("b_bn",)),
        ChannelSet("c", 6, ("c",), ()),
    ]
    assert channel_sets(model, "per_layer") == [
        ChannelSet("a", 4, ("a",), ()),
        ChannelSet("b", 4, ("b",), ("b_bn",)),
        ChannelSet("c", 6, ("c",), ()),
    ]


def test_channels_tied_to_input_or_output_are_protected() -> None:
    image = keras.Input((8, 8, 3))
    x = layers.Add()([layers.Conv2D(3, 1, name="tied_to_image")(image), image])
    y = layers.Conv2D(5, 1, name="free")(x)
    z = layers.Conv2D(2, 1, name="tied_to_output")(y)
    out = layers.Add()([z, layers.Conv2D(2, 1, name="output")(y)])
    assert [item.name for item in channel_sets(keras.Model(image, out))] == ["free"]


def test_concatenations_that_do_not_line_up_are_tied_piece_by_piece() -> None:
    image = keras.Input((8, 8, 3))
    a, b = layers.Conv2D(2, 1, name="a")(image), layers.Conv2D(4, 1, name="b")(image)
    c, d = layers.Concatenate()([a, b]), layers.Concatenate()([b, a])
    model = keras.Model(image, layers.Conv2D(1, 1, name="head")(layers.Add(name="crossed")([c, d])))
    # Channels 0..5 of both orders: a0 b0, a1 b1, b0 b2, b1 b3, b2 a0, b3 a1: all even ones are one, all odd ones too.
    (found,) = channel_sets(model)
    assert found.size == 2
    assert sorted(found.convolutions) == ["a", "b"]


def test_unsupported_layers_are_named() -> None:
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 1, name="before")(image)
    x = layers.Lambda(lambda x: x * 2, name="odd")(x)
    model = keras.Model(image, layers.Conv2D(2, 1, name="after")(x))
    with pytest.raises(ModelError, match=r"odd \(Lambda, call 2 of 3, behind before\)"):
        channel_sets(model)
    with pytest.raises(ModelError, match="no functional model"):
        channel_sets(keras.Sequential(name="empty"))
