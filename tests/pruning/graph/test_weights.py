import keras
import numpy as np
import pytest
from keras import layers

from lib.pruning.graph.weights import filters_of, rescaled, resized, weight_axes, written


def test_axes_of_weights_are_as_long_as_their_channels() -> None:
    for layer, out in [
        (layers.Conv2D(4, 3), 4),
        (layers.Conv2D(4, 3, groups=2), 4),
        (layers.DepthwiseConv2D(3, depth_multiplier=2), 12),
        (layers.SeparableConv2D(4, 3, depth_multiplier=2), 4),
        (layers.Dense(4), 4),
        (layers.BatchNormalization(), 6),
        (layers.PReLU(), 6),
    ]:
        layer.build((None, 8, 8, 6))
        described = weight_axes(layer, np.arange(6), np.arange(out))
        assert [weight for weight, _ in described] == layer.weights
        for weight, axes in described:
            assert axes
            assert all(len(channels) == weight.shape[axis] for axis, channels in axes.items())


def test_a_norm_without_gamma_is_silenced_by_its_mean() -> None:
    for scale, center, names in [
        (True, True, ["gamma", "beta"]),
        (False, True, ["moving_mean", "beta"]),
        (True, False, ["gamma"]),
        (False, False, ["moving_mean"]),
    ]:
        norm = layers.BatchNormalization(scale=scale, center=center)
        norm.build((None, 4))
        assert [variable.name for variable, _ in written(norm, "norm")] == names


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (layers.Conv1D(4, 3), (8, 6)),
        (layers.Conv2DTranspose(4, 3), (8, 8, 6)),
        (layers.Conv3D(4, 2, groups=2), (4, 4, 4, 6)),
        (layers.DepthwiseConv1D(3, depth_multiplier=2), (8, 6)),
        (layers.LSTM(4), (8, 6)),
        (layers.GRU(4), (8, 6)),
        (layers.Embedding(5, 4), (6,)),
    ],
)
def test_filters_and_what_is_written_belong_to_the_channels(layer: keras.Layer, shape: tuple[int, ...]) -> None:
    layer.build((None, *shape))
    channels = filters_of(layer).shape[-1]
    for variable, channel in written(layer, "make"):
        variable.assign(np.where(channel == 1, 0.0, np.ones(variable.shape)))
        assert set(channel.ravel().tolist()) == set(range(channels))
    np.testing.assert_array_equal(
        filters_of(layer).any(axis=tuple(range(filters_of(layer).ndim - 1))), np.arange(channels) != 1
    )


def test_configurations_of_fewer_channels() -> None:
    grouped = layers.Conv2D(12, 3, groups=6)
    grouped.build((None, 8, 8, 6))
    assert resized(grouped, "depthwise", 12, 4) == {"filters": 4, "groups": 2}
    assert resized(layers.GroupNormalization(4), "norm", 12, 6) == {"groups": 2}
    assert resized(layers.GroupNormalization(-1), "norm", 12, 6) == {}
    assert resized(layers.LSTM(8), "make", 8, 3) == {"units": 3}
    assert resized(layers.RMSNormalization(epsilon=0.1), "l2norm", 8, 4) == {"epsilon": 0.2}
    assert rescaled(layers.RMSNormalization(), 8, 2) == 2.0
    assert rescaled(layers.BatchNormalization(), 8, 2) == 1.0
