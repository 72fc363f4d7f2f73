"""The law for small versions of networks that this was not written against."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from lib.pruning import CostModel, channel_sets, plan
from lib.pruning.cost import count_parameters
from tests.networks import assert_costs_what_was_predicted, masked_and_smaller, random_masks, randomised


def _conv(x: Any, filters: int, name: str, size: int = 3, strides: int = 1) -> Any:
    x = layers.Conv2D(filters, size, strides, padding="same", use_bias=False, name=name)(x)
    return layers.ReLU()(layers.BatchNormalization()(x))


def _unet() -> keras.Model:
    """Ronneberger et al., arXiv 1505.04597, with transposed convolutions."""
    x = image = keras.Input((16, 16, 3))
    skips = []
    for level in range(2):
        x = _conv(x, 4 << level, f"down{level}")
        skips.append(x)
        x = layers.MaxPooling2D()(x)
    x = _conv(x, 12, "bottom")
    for level in (1, 0):
        x = layers.Conv2DTranspose(4 << level, 2, strides=2, name=f"up{level}")(x)
        x = _conv(layers.Concatenate()([x, skips[level]]), 4 << level, f"out{level}")
    return keras.Model(image, layers.Conv2D(2, 1, activation="sigmoid", name="mask")(x))


def _tcn() -> keras.Model:
    """Bai et al., arXiv 1803.01271."""
    x = sequence = keras.Input((16, 3))
    for level in range(2):
        y = x
        for part in "ab":
            y = layers.Conv1D(6, 3, dilation_rate=1 << level, padding="causal", name=f"conv{level}{part}")(y)
            y = layers.SpatialDropout1D(0.1)(layers.ReLU()(y))
        x = layers.ReLU()(layers.Add()([y, x if level else layers.Conv1D(6, 1, name="match")(x)]))
    return keras.Model(sequence, layers.Dense(2)(x[:, -1]))


def _volume() -> keras.Model:
    x = volume = keras.Input((8, 8, 8, 1))
    for level in range(2):
        x = layers.Conv3D(6, 3, padding="same", name=f"conv{level}")(x)
        x = layers.MaxPooling3D()(layers.ReLU()(layers.BatchNormalization()(x)))
    x = layers.Conv3DTranspose(4, 2, strides=2)(x)
    return keras.Model(volume, layers.Dense(2)(layers.GlobalAveragePooling3D()(x)))


class _LayerScale(layers.Layer):
    channel_kind = "pass"

    def build(self, input_shape: Any) -> None:
        self.gamma = self.add_weight(name="gamma", shape=(input_shape[-1],), initializer="ones")

    def call(self, inputs: Any) -> Any:
        return inputs * self.gamma


def _convnext() -> keras.Model:
    """Liu et al., arXiv 2201.03545: what the layer normalisations read stays, the wide layers between do not."""
    image = keras.Input((16, 16, 3))
    x = layers.LayerNormalization()(layers.Conv2D(6, 4, 4, name="stem")(image))
    for block in range(2):
        y = layers.LayerNormalization()(layers.DepthwiseConv2D(3, padding="same")(x))
        y = layers.Dense(12, activation="gelu", name=f"wide{block}")(y)
        x = layers.Add()([x, _LayerScale()(layers.Dense(6, name=f"narrow{block}")(y))])
    return keras.Model(image, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))


def _vit() -> keras.Model:
    """Dosovitskiy et al., arXiv 2010.11929: a block of attention."""
    image = keras.Input((8, 8, 3))
    x = layers.Reshape((16, 6))(layers.Conv2D(6, 2, 2, name="patches")(image))
    x = x + np.linspace(-1, 1, 16 * 6, dtype=np.float32).reshape(1, 16, 6)
    y = layers.LayerNormalization()(x)
    x = layers.Add()([x, layers.MultiHeadAttention(4, 3, name="attention")(y, y)])
    y = layers.Dense(12, activation="gelu", name="wide")(layers.LayerNormalization()(x))
    x = layers.LayerNormalization()(layers.Add()([x, layers.Dense(6, name="narrow")(y)]))
    return keras.Model(image, layers.Dense(2)(x[:, 0]))


def _crnn() -> keras.Model:
    """Shi et al., arXiv 1507.05717: recurrent layers behind convolutions."""
    image = keras.Input((8, 16, 1))
    x = layers.MaxPooling2D((2, 2))(_conv(image, 4, "conv0"))
    x = layers.MaxPooling2D((2, 1))(_conv(x, 5, "conv1"))
    x = layers.Reshape((8, 10))(layers.Permute((2, 1, 3))(x))
    x = layers.LSTM(6, return_sequences=True, name="lstm")(x)
    x = layers.GRU(5, return_sequences=True, name="gru")(x)
    return keras.Model(image, layers.Dense(3, activation="softmax")(x))


def _shufflenet() -> keras.Model:
    """Ma et al., arXiv 1807.11164."""
    image = keras.Input((16, 16, 3))
    x = _conv(image, 8, "stem", strides=2)
    for unit in range(2):
        left, right = ops.split(x, 2, axis=-1)
        right = _conv(right, 4, f"in{unit}", 1)
        right = layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same")(right))
        x = layers.Concatenate()([left, _conv(right, 4, f"out{unit}", 1)])
        x = ops.reshape(x, (-1, 8, 8, 2, 4))
        x = ops.reshape(ops.transpose(x, (0, 1, 2, 4, 3)), (-1, 8, 8, 8))
    return keras.Model(image, layers.Dense(2)(layers.GlobalAveragePooling2D()(_conv(x, 10, "last", 1))))


def _group_norm_resnet() -> keras.Model:
    """Wu & He, arXiv 1803.08494."""
    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, padding="same", name="stem")(image)
    for block in range(2):
        y = layers.ReLU()(layers.GroupNormalization(4)(x))
        y = layers.Conv2D(8, 3, padding="same", name=f"a{block}")(y)
        y = layers.ReLU()(layers.GroupNormalization(2)(y))
        x = layers.Add()([x, layers.Conv2D(8, 3, padding="same", name=f"b{block}")(y)])
    return keras.Model(image, layers.Dense(2)(layers.GlobalAveragePooling2D()(layers.ReLU()(x))))


def _text() -> keras.Model:
    words = keras.Input((8,), dtype="int32")
    x = layers.Embedding(10, 6, name="embedding")(words)
    x = layers.Conv1D(5, 3, activation="relu", name="conv")(x)
    return keras.Model(words, layers.Dense(2)(layers.GlobalMaxPooling1D()(x)))


def _masked_text() -> keras.Model:
    words = keras.Input((8,), dtype="int32")
    x = layers.Embedding(10, 6, mask_zero=True, name="embedding")(words)
    x = layers.GRU(5, return_sequences=True, name="gru")(x)
    return keras.Model(words, layers.Dense(2)(layers.LSTM(4, name="lstm")(x)))


def _autoencoder() -> keras.Model:
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, 2, padding="same", activation="relu", name="encode")(image)
    x = layers.Dense(5, name="code")(layers.Flatten()(x))
    x = layers.Reshape((4, 4, 6))(layers.Dense(96, activation="relu", name="decode")(x))
    return keras.Model(image, layers.Conv2DTranspose(3, 3, 2, padding="same", name="image")(x))


def _super_resolution() -> keras.Model:
    """Shi et al., arXiv 1609.05158: a pixel of the larger map is a channel of the smaller."""
    image = keras.Input((6, 6, 3))
    x = ops.nn.depth_to_space(layers.Conv2D(16, 3, padding="same", name="features")(image), 2)
    return keras.Model(image, layers.Conv2D(3, 3, padding="same", name="image")(x))


def _split_blocks() -> keras.Model:
    """A cross-stage block: half passes, half goes on, and all that was made on the way is joined."""
    image = keras.Input((8, 8, 3))
    parts = list(ops.split(_conv(image, 8, "stem"), 2, axis=-1))
    for block in range(2):
        parts.append(parts[-1] + _conv(_conv(parts[-1], 3, f"in{block}"), 4, f"out{block}"))
    return keras.Model(image, layers.Dense(2)(ops.concatenate(parts, axis=-1)))


def _gated() -> keras.Model:
    """A gated linear unit of slices, and a gate over channels."""
    image = keras.Input((8, 8, 3))
    x = _conv(image, 6, "stem")
    x = layers.Conv2D(12, 3, padding="same", name="both")(x)
    x = x[..., :6] * ops.sigmoid(x[..., 6:])
    gate = ops.mean(x, axis=(1, 2), keepdims=True)
    x = x * ops.hard_sigmoid(layers.Conv2D(6, 1, name="excite")(ops.relu(layers.Conv2D(3, 1, name="squeeze")(gate))))
    return keras.Model(image, layers.Dense(2)(ops.max(x, axis=(1, 2))))


# Network -> channels that can go, of all that are made and reach no output.
NETWORKS: dict[Callable[[], keras.Model], int] = {
    _unet: 48,
    _tcn: 18,
    _volume: 16,
    _convnext: 24,
    _vit: 16,
    _crnn: 20,
    _shufflenet: 26,
    _group_norm_resnet: 8,
    _text: 11,
    _masked_text: 15,
    _autoencoder: 15,
    _super_resolution: 4,
    _split_blocks: 14,
    _gated: 15,
}


@pytest.mark.parametrize("make", NETWORKS)
def test_masked_is_smaller(make: Callable[[], keras.Model]) -> None:
    random = np.random.default_rng(0)
    model = randomised(make(), random)
    sets = channel_sets(model)
    height, width = model.input_shape[1:3] if len(model.input_shape) == 4 else (1, 1)
    shape = (2, *model.input_shape[1:])
    inputs = random.integers(0, 10, shape) if "int" in model.input.dtype else random.normal(0, 1, shape)
    cost = CostModel(model, height, width)
    for masks in (plan(model, 0.4), random_masks(sets, random)):
        _, small = masked_and_smaller(model, masks, inputs, 1e-5)
        assert_costs_what_was_predicted(cost, masks, small, height, width)
        assert count_parameters(small) < count_parameters(model)
    assert sum(item.size for item in sets) == NETWORKS[make]
