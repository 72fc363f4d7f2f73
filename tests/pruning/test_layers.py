"""The law for every kind of layer: masked is smaller, on random weights, statistics and masks."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from lib.errors import ConfigError, ModelError
from lib.pruning import (
    CostModel,
    channel_sets,
    largest_difference,
    register,
    removable_part,
)
from lib.pruning.graph.channels import ChannelGraph
from tests.networks import assert_costs_what_was_predicted, masked_and_smaller, random_masks, randomised

Body = Callable[[Any], Any]


def _conv(filters: int, name: str | None = None, **more: Any) -> keras.Layer:
    return layers.Conv2D(filters, 3, padding="same", name=name, **more)


def _network(body: Body, *shape: int, head: keras.Layer | None = None) -> keras.Model:
    image = keras.Input(shape or (8, 8, 3))
    model = keras.Model(image, (head or layers.Dense(2, name="head"))(body(image)))
    return randomised(model, np.random.default_rng(0))


def _law(model: keras.Model, prunable: int) -> None:
    """Masked is smaller for two random masks, of `prunable` channels in all, and costs what was predicted."""
    cost = CostModel(model, 8, 8)
    assert sum(item.size for item in cost.sets) == prunable
    changed = False
    for seed in range(2):
        random = np.random.default_rng(seed)
        masks = random_masks(cost.sets, random)
        shape = (2, *(size or 8 for size in model.input_shape[1:]))
        inputs = random.normal(0, 1, shape) if "int" not in model.input.dtype else random.integers(0, 5, shape)
        inputs = inputs.astype(model.input.dtype)
        masked, small = masked_and_smaller(model, masks, inputs, 1e-5)
        assert_costs_what_was_predicted(cost, masks, small, 8, 8)
        changed |= largest_difference(model, small, inputs) > 1e-3
        # What was masked is found again by its zeros.
        found = removable_part(masked).masks.channels
        assert all(set(off) <= set(found[name]) for name, off in masks.channels.items())
    assert changed


def _chain(*steps: keras.Layer) -> Body:
    def body(x: Any) -> Any:
        for step in steps:
            x = step(x)
        return x

    return body


# name -> (body, shape of the input, prunable channels)
BODIES: dict[str, tuple[Body, tuple[int, ...], int]] = {
    "conv1d": (
        _chain(
            layers.Conv1D(6, 3, padding="causal", dilation_rate=2, activation="relu"),
            layers.BatchNormalization(),
            layers.MaxPooling1D(2, padding="same"),
            layers.DepthwiseConv1D(3, depth_multiplier=2),
            layers.UpSampling1D(2),
            layers.SeparableConv1D(5, 3, depth_multiplier=2),
            layers.ZeroPadding1D(1),
            layers.Cropping1D(1),
            layers.SpatialDropout1D(0.1),
            layers.AveragePooling1D(2),
            layers.Conv1DTranspose(4, 3, strides=2),
            layers.GlobalAveragePooling1D(),
        ),
        (16, 3),
        15,
    ),
    "conv3d": (
        _chain(
            layers.Conv3D(6, 3, padding="same", groups=2),
            layers.ReLU(),
            layers.MaxPooling3D(2, padding="same"),
            layers.UpSampling3D(2),
            layers.ZeroPadding3D(1),
            layers.Cropping3D(1),
            layers.AveragePooling3D(2, padding="same"),
            layers.Conv3DTranspose(4, 2, strides=2),
            layers.BatchNormalization(),
            layers.GlobalMaxPooling3D(keepdims=True),
        ),
        (4, 4, 4, 2),
        4,
    ),
    "transposed": (
        _chain(
            _conv(5),
            layers.Conv2DTranspose(6, 3, strides=2, padding="same", activation="relu"),
            layers.PReLU(shared_axes=(1, 2)),
            layers.Conv2DTranspose(4, 2, use_bias=False),
            layers.BatchNormalization(),
            layers.GlobalMaxPooling2D(),
        ),
        (8, 8, 3),
        15,
    ),
    "prelu of every position": (_chain(_conv(5), layers.PReLU(), layers.GlobalMaxPooling2D()), (8, 8, 3), 5),
    "grouped by channel": (
        _chain(_conv(5), _conv(10, groups=5), layers.ReLU(), _conv(4), layers.GlobalAveragePooling2D()),
        (8, 8, 3),
        9,
    ),
    "grouped": (_chain(_conv(6), _conv(8, groups=2), layers.ReLU(), _conv(4)), (8, 8, 3), 11),
    "group normalisation": (
        _chain(_conv(6), layers.GroupNormalization(3), layers.ReLU(), _conv(4), layers.GroupNormalization(-1)),
        (8, 8, 3),
        7,
    ),
    "group normalisation without gamma": (_chain(_conv(6), layers.GroupNormalization(2, scale=False)), (8, 8, 3), 2),
    "group normalisation without beta": (_chain(_conv(6), layers.GroupNormalization(3, center=False)), (8, 8, 3), 3),
    "layer normalisation": (_chain(_conv(6), layers.LayerNormalization(), _conv(4), layers.ReLU()), (8, 8, 3), 4),
    "rms normalisation": (_chain(_conv(6), layers.RMSNormalization(), _conv(4)), (8, 8, 3), 10),
    "unit normalisation": (_chain(_conv(6), layers.UnitNormalization(), _conv(4)), (8, 8, 3), 10),
    "lstm": (
        _chain(_conv(4), layers.Reshape((8, 32)), layers.LSTM(5, return_sequences=True), layers.LSTM(4)),
        (8, 8, 3),
        13,
    ),
    "gru": (_chain(layers.GRU(5, return_sequences=True), layers.GRU(4, reset_after=False)), (6, 3), 9),
    "simple rnn": (_chain(layers.SimpleRNN(5, return_sequences=True), layers.Conv1D(3, 2)), (6, 3), 8),
    "rescaling": (_chain(_conv(4), layers.Rescaling(2.0), _conv(3), layers.Rescaling(1.0, offset=1.0)), (8, 8, 3), 4),
    "permuted": (
        _chain(_conv(4), layers.Permute((2, 1, 3)), layers.Reshape((8, 32)), layers.Dense(5, activation="gelu")),
        (8, 8, 3),
        9,
    ),
    "channels first for a while": (
        _chain(_conv(4), layers.Permute((3, 1, 2)), layers.ReLU(), layers.Permute((2, 3, 1)), _conv(3)),
        (8, 8, 3),
        7,
    ),
    "flattened and back": (_chain(_conv(4), layers.Flatten(), layers.Reshape((8, 8, 4)), _conv(3)), (8, 8, 3), 7),
    "repeated": (_chain(layers.Dense(4), layers.RepeatVector(3), layers.Conv1D(3, 2)), (5,), 7),
    "softmax as an activation": (_chain(_conv(4), _conv(3, activation="softmax"), _conv(3)), (8, 8, 3), 7),
    "softmax inside": (_chain(_conv(4), layers.Softmax(), _conv(3)), (8, 8, 3), 3),
}


@pytest.mark.parametrize("name", BODIES)
def test_layers(name: str) -> None:
    body, shape, prunable = BODIES[name]
    _law(_network(body, *shape), prunable)


def test_an_embedding_is_pruned() -> None:
    words = keras.Input((6,), dtype="int32")
    x = layers.LSTM(4)(layers.Embedding(5, 6)(words))
    _law(randomised(keras.Model(words, layers.Dense(2)(x)), np.random.default_rng(0)), 10)


def _shuffle(x: Any) -> Any:
    x = ops.reshape(x, (-1, 8, 8, 2, 4))
    return ops.reshape(ops.transpose(x, (0, 1, 2, 4, 3)), (-1, 8, 8, 8))


def _shuffled(x: Any) -> Any:
    x = _conv(8, groups=2)(_conv(8)(x))
    return _conv(8, groups=2)(layers.ReLU()(_shuffle(x)))


def _shuffle_unit(x: Any) -> Any:
    """Half of the channels pass, half go through a branch; then both are mixed (ShuffleNet V2, arXiv 1807.11164)."""
    x = layers.ReLU()(_conv(8)(x))
    left, right = ops.split(x, 2, axis=-1)
    right = layers.DepthwiseConv2D(3, padding="same")(_conv(4)(right))
    return _shuffle(layers.Concatenate()([left, _conv(4)(right)]))


def _slices(x: Any) -> Any:
    x = _conv(8)(x)
    shifted = layers.ZeroPadding2D((0, 1))(x[:, ::-1, 1:-1, -2:])
    return layers.Concatenate()([_conv(3)(x[..., :5]), layers.ReLU()(x[:, :, :, 3:]), shifted])


def _vectors(x: Any) -> Any:
    scale, shift = np.linspace(0.5, 1.5, 6, dtype=np.float32), np.linspace(-1, 1, 6, dtype=np.float32)
    x = layers.BatchNormalization()(_conv(6)(x) * scale + shift)
    return ops.relu(x) * scale


def _shift_that_is_read(x: Any) -> Any:
    return _conv(4)(_conv(6)(x) + np.linspace(-1, 1, 6, dtype=np.float32))


def _arithmetic(x: Any) -> Any:
    a, b = _conv(5)(x), _conv(5)(x)
    x = ops.maximum(ops.silu(a) - b, 0.1 * a) / 3.0 + ops.square(b) * ops.sigmoid(a)
    return ops.clip(ops.leaky_relu(x), -2, 2) ** 2


def _reductions(x: Any) -> Any:
    x = ops.relu(_conv(5)(x))
    gate = ops.sigmoid(layers.Dense(5)(ops.relu(layers.Dense(3)(ops.mean(x, axis=(1, 2), keepdims=True)))))
    return layers.Concatenate()([ops.max(x * gate, axis=(1, 2)), ops.sum(x, axis=[1, 2]), ops.mean(ops.mean(x, 1), 1)])


def _spatial_attention(x: Any) -> Any:
    """CBAM's (arXiv 1807.06521): the mean and maximum over channels read all of them, so that these stay."""
    x = ops.relu(_conv(5)(x))
    summary = ops.concatenate([ops.mean(x, -1, keepdims=True), ops.max(x, -1, keepdims=True)], axis=-1)
    return _conv(4)(layers.Multiply()([x, _conv(1, activation="sigmoid")(summary)]))


def _one_map_for_all(x: Any) -> Any:
    return _conv(4)(_conv(5)(x) * _conv(1, activation="sigmoid")(x))


def _stacked(x: Any) -> Any:
    pair = ops.stack([_conv(4)(x), _conv(4)(x)], axis=-1)
    return ops.reshape(pair, (-1, 8, 8, 8))


def _taken(x: Any) -> Any:
    x = ops.take(_conv(4)(x), np.array([3, 1, 0, 2, 1]), axis=-1)
    return ops.flip(ops.tile(ops.expand_dims(x, 1), (1, 2, 1, 1, 1)), -1)


def _pixel_shuffle(x: Any) -> Any:
    x = ops.reshape(_conv(12)(x), (-1, 8, 8, 2, 2, 3))
    return _conv(4)(ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, 16, 16, 3)))


def _heads(x: Any) -> Any:
    """Queries, keys and values from one layer, taken apart: what attends stays, as it is compared as a whole."""
    x = layers.Reshape((64, 4))(_conv(4)(x))
    q, k, v = ops.split(layers.Dense(12)(x), 3, axis=-1)
    return layers.Dense(4)(ops.matmul(ops.softmax(ops.matmul(q, ops.transpose(k, (0, 2, 1)))), v))


def _shared(x: Any) -> Any:
    """A layer that reads channels in one place and positions in another stays as it is."""
    shared = layers.Dense(8)
    x = _conv(4)(x)
    y = layers.Permute((1, 3, 2))(_conv(3)(x))
    return layers.Concatenate(axis=2)([shared(_conv(8)(x)), shared(y)])


def _resized(x: Any) -> Any:
    x = layers.Resizing(12, 12)(_conv(4)(x))
    return _conv(3)(keras.ops.image.resize(x, (6, 6)))


def _normalised(x: Any) -> Any:
    return _conv(4)(ops.normalize(_conv(5)(x), axis=-1))


OPERATIONS: dict[Body, int] = {
    _shuffled: 10,
    _shuffle_unit: 12,
    _slices: 11,
    _vectors: 6,
    _shift_that_is_read: 4,
    _arithmetic: 5,
    _reductions: 8,
    _spatial_attention: 4,
    _one_map_for_all: 9,
    _stacked: 4,
    _taken: 4,
    _pixel_shuffle: 7,
    _heads: 8,
    _shared: 4,
    _resized: 7,
    _normalised: 9,
}


@pytest.mark.parametrize("body", OPERATIONS)
def test_operations(body: Body) -> None:
    _law(_network(body), OPERATIONS[body])


@keras.saving.register_keras_serializable(package="tests")
class _Scale(layers.Layer):
    """One factor a channel, as many as its configuration says."""

    channel_kind = "pass"
    channel_sizes = ("channels",)

    def __init__(self, channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channels = channels

    def build(self, input_shape: Any) -> None:
        self.factor = self.add_weight(name="factor", shape=(self.channels,), initializer="ones")

    def call(self, inputs: Any) -> Any:
        return inputs * self.factor

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "channels": self.channels}


@keras.saving.register_keras_serializable(package="tests")
class _Closed(layers.Layer):
    """A layer that says nothing of itself."""

    def call(self, inputs: Any) -> Any:
        return inputs * 2.0


def test_a_layer_of_ones_own_joins() -> None:
    _law(_network(_chain(_conv(5), _Scale(5), _conv(4))), 9)
    model = _network(_chain(_conv(5), _Closed(name="closed"), _conv(4)))
    with pytest.raises(ModelError, match=r"closed \(_Closed, call 2 of 4, .* `protected`"):
        channel_sets(model)
    with pytest.raises(ConfigError, match="_Closed: 'make' is no kind that a layer may have"):
        register(_Closed, kind="make")
    register(_Closed, kind="pass")
    _law(model, 9)


def test_a_lambda_is_refused_and_what_mixes_channels_says_why() -> None:
    with pytest.raises(ModelError, match=r"odd \(Lambda"):
        channel_sets(_network(_chain(_conv(5), layers.Lambda(lambda x: x, name="odd"), _conv(4))))
    graph = ChannelGraph(_network(_chain(_conv(5), layers.LayerNormalization(name="norm"), _conv(4))))
    assert "norm takes a mean over all channels, which would change" in graph.reasons.values()
