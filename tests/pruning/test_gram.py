from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from lib.pruning.gram import Affine, Reading, Sums, positions

KINDS = {
    "conv": lambda: layers.Conv2D(6, 3, padding="same"),
    "valid": lambda: layers.Conv2D(6, (2, 3)),
    "strided": lambda: layers.Conv2D(6, 3, strides=2, padding="same"),
    "dilated": lambda: layers.Conv2D(6, 3, dilation_rate=2, padding="same"),
    "grouped": lambda: layers.Conv2D(6, 3, groups=2),
    "pointwise": lambda: layers.Conv2D(6, 1, strides=2),
    "depthwise": lambda: layers.DepthwiseConv2D(3, strides=2, padding="same", depth_multiplier=2),
    "separable": lambda: layers.SeparableConv2D(6, 3, strides=2, padding="same", depth_multiplier=2),
    "dense": lambda: layers.Dense(6),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [9, 10])
def test_rows_times_matrix_is_the_layer(kind: str, side: int) -> None:
    keras.utils.set_random_seed(0)
    layer: Any = KINDS[kind]()
    x = np.random.default_rng(0).normal(size=(2, side, side + 3, 4)).astype(np.float32)
    made = np.asarray(layer(x))
    affine = Affine(layer)
    read = affine.reading.prepared(x)
    assert affine.reading.grid(read.shape) == made.shape[:-1]
    found = affine(affine.reading.rows(read, np.arange(made[..., 0].size)))
    np.testing.assert_allclose(found.reshape(made.shape), made, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_assign_is_the_inverse_of_matrix(kind: str) -> None:
    layer: Any = KINDS[kind]()
    layer.build((None, 8, 8, 4))
    before = layer.get_weights()
    reading = Reading(layer)
    matrix = reading.matrix()
    reading.assign(matrix)
    for a, b in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_sums_of_parts_solve_as_numpy_does() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(300, 1, 7)), random.normal(size=(300, 1, 3))
    sums = Sums(np.zeros((1, 7, 3)), intercept=True)
    for part in range(0, 300, 100):
        sums.add(x[part : part + 100], y[part : part + 100])
    solution = sums.solve(np.zeros((1, 8, 3)), 0.0)
    expected, residual, *_ = np.linalg.lstsq(np.c_[x[:, 0], np.ones(300)], y[:, 0], rcond=None)
    np.testing.assert_allclose(solution[0], expected, atol=1e-6)
    np.testing.assert_allclose(sums.error(solution)[0], residual, rtol=1e-6)


def test_half_of_the_positions_lie_inside() -> None:
    inside = np.zeros(10_000, bool)
    inside[:500] = True
    at = positions((1, 100, 100), 400, np.random.default_rng(0), inside)
    assert len(at) == 400
    assert inside[at].sum() >= 200
