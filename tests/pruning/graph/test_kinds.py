from typing import Any

import keras
import pytest
from keras import layers

from lib.errors import ModelError
from lib.models.layers import CroppedMultiply, L2Normalization, WeightedFusion
from lib.pruning.graph.calls import Calls
from lib.pruning.graph.flow import Flow
from lib.pruning.graph.kinds import acts_on_each_value, drops_operands, keeps_zero


def _kind(layer: keras.layers.Layer, *shapes: tuple[int, ...]) -> str:
    inputs = [keras.Input(shape) for shape in shapes]
    return Flow(Calls(keras.Model(inputs, layer(inputs if len(inputs) > 1 else inputs[0])))).steps[0].kind


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (layers.Conv2D(4, 3, activation="relu"), "make"),
        (layers.Conv2D(4, 3, activation="softmax"), "make"),
        (layers.DepthwiseConv2D(3, activation="softmax"), "opaque"),
        (layers.DepthwiseConv2D(3), "depthwise"),
        (layers.BatchNormalization(), "norm"),
        (layers.BatchNormalization(axis=1), "opaque"),
        (layers.LayerNormalization(), "opaque"),
        (layers.PReLU(shared_axes=(1, 2)), "pass"),
        (layers.Activation("sigmoid"), "pass"),
        (layers.Activation("log_softmax"), "opaque"),
        (layers.Softmax(), "opaque"),
        (layers.Reshape((1, 64, 6)), "pass"),
        (layers.Reshape((64 * 6,)), "move"),
        (layers.Flatten(), "move"),
        (layers.Rescaling(2.0, offset=1.0), "pass"),
        (layers.Rescaling([1.0] * 6), "opaque"),
        (layers.UpSampling2D(2, interpolation="bilinear"), "pass"),
    ],
)
def test_kinds_of_layers(layer: keras.layers.Layer, kind: str) -> None:
    assert _kind(layer, (8, 8, 6)) == kind


@pytest.mark.parametrize(
    ("layer", "shapes", "kind"),
    [
        (layers.Add(), [(8, 8, 6), (8, 8, 6)], "sum"),
        (layers.Multiply(), [(8, 8, 6), (1, 1, 6)], "product"),
        (layers.Multiply(), [(8, 8, 6), (8, 8, 1)], "pass"),
        (layers.Concatenate(), [(8, 8, 6), (8, 8, 2)], "join"),
        (layers.Concatenate(axis=1), [(8, 8, 6), (2, 8, 6)], "sum"),
    ],
)
def test_kinds_of_merging_layers(layer: keras.layers.Layer, shapes: list[tuple[int, ...]], kind: str) -> None:
    assert _kind(layer, *shapes) == kind


def test_whether_an_activation_acts_on_each_value() -> None:
    assert all(acts_on_each_value(getattr(keras.activations, name)) for name in ("relu6", "swish", "elu", "sigmoid"))
    assert not any(acts_on_each_value(getattr(keras.activations, name)) for name in ("softmax", "glu"))


@pytest.mark.parametrize(
    ("layer", "keeps"),
    [
        (layers.ReLU(6.0), True),
        (layers.ReLU(negative_slope=0.1, threshold=1.0), False),
        (layers.ReLU(threshold=1.0), True),
        (layers.LeakyReLU(), True),
        (layers.Activation("hard_silu"), True),
        (layers.Activation("hard_sigmoid"), False),
        (layers.Dense(3, activation="softplus"), False),
        (layers.Dense(3), True),
        (layers.Rescaling(3.0), True),
        (layers.Rescaling(1.0, offset=-1.0), False),
    ],
)
def test_whether_zero_stays_zero(layer: keras.layers.Layer, keeps: bool) -> None:
    assert keeps_zero(layer) == keeps


class _Own(layers.Layer):
    """A user's layer that takes the maximum of its inputs."""

    channel_kind = "sum"

    def call(self, inputs: list[Any]) -> Any:
        return keras.ops.maximum(*inputs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return tuple(input_shape[0])


def test_a_layer_of_ones_own_says_its_kind() -> None:
    assert _kind(_Own(), (8, 8, 6), (8, 8, 6)) == "sum"
    assert _kind(WeightedFusion(), (8, 8, 6), (8, 8, 6)) == "sum"
    assert _kind(CroppedMultiply(), (8, 8, 6), (8, 8, 6)) == "product"
    assert _kind(L2Normalization(10.0), (8, 8, 6)) == "l2norm"
    assert (drops_operands(WeightedFusion()), drops_operands(layers.Add()), drops_operands(_Own())) == (
        True,
        True,
        False,
    )


def test_a_kind_that_no_layer_may_have_is_refused_by_name() -> None:
    layer = _Own(name="odd")
    layer.channel_kind = "make"
    with pytest.raises(ModelError, match=r"odd \(_Own\): channel_kind 'make'"):
        _kind(layer, (8, 8, 6), (8, 8, 6))


def test_an_embedding_with_adapters_is_not_in_its_table_alone() -> None:
    words = keras.Input((6,), dtype="int32")
    table = layers.Embedding(5, 6)
    model = keras.Model(words, layers.Conv1D(5, 3)(table(words)))
    assert Flow(Calls(model)).steps[0].kind == "make"
    table.enable_lora(2)
    assert Flow(Calls(model)).steps[0].kind == "opaque"
