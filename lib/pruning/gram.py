"""Least squares of a layer from sums over positions: what it reads at a position is a row, what it should say a target.

A convolution is a linear map of the window that it sees at each position of its output. With X the rows and Y the
targets, the best weights follow from X'X and X'Y alone, which add up over images.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray
from scipy.linalg import lu_factor, lu_solve

from lib.arrays import BoolArray, FloatArray, IntArray

QUIET = 0.02  # weight of a position where both the layer and its target are below zero, in front of a ReLU
ROUNDS = 10  # of the re-weighted solve
# What `Reading` reads; others stay as they are.
RULED = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D, layers.Dense, layers.BatchNormalization)


class Reading:
    """How a layer reads its input: as rows [positions, groups, features].

    A depthwise convolution or a batch normalisation on its own is one group a channel; a dense layer reads each
    position by itself; of a separable convolution the pointwise part is meant, behind the depthwise one.
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.kernel, self.strides, self.dilation, self.padding = (1, 1), (1, 1), (1, 1), "valid"
        if isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D):
            self.kernel, self.strides = tuple(layer.kernel_size), tuple(layer.strides)
            self.dilation, self.padding = tuple(layer.dilation_rate), layer.padding
        self.by_channel = isinstance(layer, layers.DepthwiseConv2D | layers.BatchNormalization)

    def prepared(self, inputs: Any) -> FloatArray:
        """What the linear part reads, [B, ..., C]."""
        layer = self.layer
        if isinstance(layer, layers.SeparableConv2D):
            inputs = ops.depthwise_conv(
                ops.cast(inputs, layer.compute_dtype),
                ops.cast(layer.depthwise_kernel, layer.compute_dtype),
                strides=tuple(layer.strides),
                padding=layer.padding,
                dilation_rate=tuple(layer.dilation_rate),
            )
        return np.asarray(ops.convert_to_numpy(inputs), np.float32)

    def grid(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """[B, ...] of the output's positions for prepared inputs of this shape."""
        if len(shape) != 4:
            return shape[:-1]
        return (shape[0], *(self._out(axis, shape[axis + 1]) for axis in (0, 1)))

    def rows(self, inputs: FloatArray, at: IntArray) -> FloatArray:
        """[n, groups, features] at these flat positions of the grid."""
        channels = inputs.shape[-1]
        if inputs.ndim != 4 or (self.kernel == (1, 1) and self.strides == (1, 1)):
            found = inputs.reshape(-1, 1, channels)[at]
        else:
            batch, ys, xs = np.unravel_index(at, self.grid(inputs.shape))
            steps = [np.arange(size) * rate for size, rate in zip(self.kernel, self.dilation, strict=True)]
            y = ys[:, None, None] * self.strides[0] - self._before(0, inputs.shape[1]) + steps[0][:, None]
            x = xs[:, None, None] * self.strides[1] - self._before(1, inputs.shape[2]) + steps[1][None, :]
            inside = (y >= 0) & (y < inputs.shape[1]) & (x >= 0) & (x < inputs.shape[2])
            y, x = np.clip(y, 0, inputs.shape[1] - 1), np.clip(x, 0, inputs.shape[2] - 1)
            found = inputs[batch[:, None, None], y, x] * inside[..., None]
            found = found.reshape(len(at), -1, channels)
        groups = channels if self.by_channel else getattr(self.layer, "groups", 1)
        split = found.reshape(len(at), found.shape[1], groups, channels // groups)
        return np.ascontiguousarray(split.transpose(0, 2, 1, 3)).reshape(len(at), groups, -1)

    def matrix(self) -> FloatArray:
        """The weights as [groups, features, channels out of a group], float64."""
        layer = self.layer
        if isinstance(layer, layers.BatchNormalization):
            return _scale(layer)[:, None, None]
        if isinstance(layer, layers.DepthwiseConv2D):
            kernel = np.asarray(layer.kernel, np.float64)
            return kernel.reshape(-1, *kernel.shape[2:]).transpose(1, 0, 2)
        kernel = np.asarray(self._variable(), np.float64)
        groups = getattr(layer, "groups", 1)
        flat = kernel.reshape(-1, groups, kernel.shape[-1] // groups)
        return flat.transpose(1, 0, 2)

    def assign(self, matrix: FloatArray) -> None:
        """The inverse of `matrix`; not for a batch normalisation."""
        variable = self._variable()
        variable.assign(matrix.transpose(1, 0, 2).reshape(variable.shape))

    def _variable(self) -> Any:
        separable = isinstance(self.layer, layers.SeparableConv2D)
        return self.layer.pointwise_kernel if separable else self.layer.kernel

    def _extent(self, axis: int) -> int:
        return (self.kernel[axis] - 1) * self.dilation[axis] + 1

    def _out(self, axis: int, size: int) -> int:
        free = size if self.padding == "same" else size - self._extent(axis) + 1
        return max(0, -(-free // self.strides[axis]))

    def _before(self, axis: int, size: int) -> int:
        """Padding in front, as Keras' "same" pads."""
        if self.padding != "same":
            return 0
        return max(0, (self._out(axis, size) - 1) * self.strides[axis] + self._extent(axis) - size) // 2


class Sums:
    """X'X, X'Y and Y'Y of a layer, a 1 appended to every row where there is an intercept.

    Multiplied in single precision an image at a time, and added up in double.
    """

    def __init__(self, matrix: FloatArray, intercept: bool) -> None:
        groups, features, out = matrix.shape
        width = features + intercept
        self.intercept = intercept
        self.xx = np.zeros((groups, width, width))
        self.xy = np.zeros((groups, width, out))
        self.yy = np.zeros((groups, out))
        self.count = 0

    @property
    def nbytes(self) -> int:
        return self.xx.nbytes + self.xy.nbytes + self.yy.nbytes

    def add(self, rows: FloatArray, targets: FloatArray) -> None:
        """Rows [n, groups, features], targets [n, groups, out]."""
        x = self.by_group(rows)
        y = np.ascontiguousarray(targets.transpose(1, 0, 2), np.float32)
        self.xx += x.transpose(0, 2, 1) @ x
        self.xy += x.transpose(0, 2, 1) @ y
        self.yy += np.square(y, dtype=np.float64).sum(axis=1)
        self.count += len(rows)

    def by_group(self, rows: FloatArray) -> FloatArray:
        """[groups, n, features (+ 1)]."""
        count, groups, features = rows.shape
        x = np.ones((groups, count, features + self.intercept), np.float32)
        x[..., :features] = rows.transpose(1, 0, 2)
        return x

    def ridge(self, share: float) -> FloatArray:
        """[groups, width]: `share` of the mean diagonal of X'X; next to nothing on the intercept."""
        width = self.xx.shape[1]
        features = width - self.intercept
        diagonal = np.einsum("gii->gi", self.xx)[:, :features].mean(axis=1, keepdims=True)
        strength = np.repeat(share * diagonal + 1e-12 * max(self.count, 1), width, axis=1)
        if self.intercept:
            strength[:, features:] = 1e-9 * max(self.count, 1)
        return strength

    def solve(self, start: FloatArray, share: float) -> FloatArray:
        """The best [groups, width, out], pulled towards `start` by the ridge."""
        return self.solver(start, share)(self.xy)

    def solver(self, start: FloatArray, share: float) -> Callable[[FloatArray], FloatArray]:
        """Of any X'Y the best, as `solve`; X'X is factorised once."""
        strength = self.ridge(share)[:, :, None]
        left = self.xx + strength * np.eye(self.xx.shape[1])
        pull = strength * start
        if len(left) > 1:  # many small groups: one call for all of them
            return lambda xy: np.asarray(np.linalg.solve(left, xy + pull), np.float64)
        factors = lu_factor(left[0])
        return lambda xy: np.asarray(lu_solve(factors, (xy + pull)[0]), np.float64)[None]

    def error(self, solution: FloatArray) -> FloatArray:
        """[groups, out]: the sum of squares that is left."""
        left = self.yy - 2 * (solution * self.xy).sum(axis=1) + (solution * (self.xx @ solution)).sum(axis=1)
        return np.maximum(left, 0)

    def spread(self) -> FloatArray:
        """[groups, out]: the targets' sum of squares about their mean (about zero without an intercept)."""
        if not self.intercept:
            return self.yy
        return np.maximum(self.yy - np.square(self.xy[:, -1]) / max(self.count, 1), 0)

    def moments(self, matrix: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and variance [groups, out] of rows times `matrix` [groups, features, out]; needs the intercept."""
        features = matrix.shape[1]
        mean_x = self.xx[:, -1, :features] / self.count
        square = (matrix * (self.xx[:, :features, :features] @ matrix)).sum(axis=1) / self.count
        mean = (mean_x[:, None, :] @ matrix)[:, 0]
        return mean, np.maximum(square - mean**2, 0)


def solve_before_relu(
    sums: Sums, rows: FloatArray, targets: FloatArray, start: FloatArray, share: float
) -> tuple[FloatArray, FloatArray]:
    """Least squares where a ReLU follows: what lies below zero on both sides counts `QUIET`.

    Each round replaces such a target by the layer's own value, all but `QUIET` of it, and solves with the same X'X:
    a majorisation of the weighted sum of squares, so that it never grows, and one factorisation serves all channels.

    Returns:
        the solution, and [3, out channels] sums of squares behind the ReLU: left of `start`, left of the solution, of
        the targets about their mean.

    """
    x, t = sums.by_group(rows), np.ascontiguousarray(targets.transpose(1, 0, 2), np.float32)
    goal = np.maximum(t, 0)

    def missed(made: FloatArray) -> FloatArray:
        return np.asarray(np.square(np.maximum(made, 0) - goal).sum(axis=1, dtype=np.float64))

    before = missed(x @ start.astype(np.float32))
    best, after = start, before
    solve = sums.solver(start, share)
    solution = solve(sums.xy)
    for _ in range(ROUNDS):
        made = x @ solution.astype(np.float32)
        left = missed(made)
        better = left < after
        best = np.where(better[:, None], solution, best)
        after = np.where(better, left, after)
        moved = np.where((t < 0) & (made < 0), made + QUIET * (t - made), t)
        solution = solve(x.transpose(0, 2, 1) @ moved)
    spread = np.square(goal - goal.mean(axis=1, keepdims=True)).sum(axis=1, dtype=np.float64)
    return best, np.stack([before.reshape(-1), after.reshape(-1), spread.reshape(-1)])


def positions(
    grid: tuple[int, ...], count: int, random: np.random.Generator, inside: BoolArray | None = None
) -> NDArray[np.int64]:
    """`count` flat positions of a grid [B, ...] at most, ascending; half of them where `inside`, if there are any."""
    total = int(np.prod(grid))
    if total <= count:
        return np.arange(total)
    chosen = random.choice(total, count, replace=False)
    if inside is not None and inside.any():
        faces = np.flatnonzero(inside)
        half = min(count // 2, len(faces))
        chosen = np.concatenate([random.choice(faces, half, replace=False), chosen[: count - half]])
    return np.sort(chosen)


def _scale(norm: keras.layers.BatchNormalization) -> FloatArray:
    variance = np.asarray(norm.moving_variance, np.float64)
    gamma = np.asarray(norm.gamma, np.float64) if norm.scale else np.ones_like(variance)
    return gamma / np.sqrt(variance + norm.epsilon)


class Affine:
    """A layer with the batch normalisation behind it as one map, weights [groups, features, out] and an offset [out].

    Args:
        layer: a convolution, a dense layer, or a batch normalisation on its own.
        norm: the batch normalisation that alone reads what the layer makes, or None.

    """

    def __init__(self, layer: Any, norm: Any = None) -> None:
        self.reading, self.layer, self.norm = Reading(layer), layer, norm
        alone = isinstance(layer, layers.BatchNormalization)
        self.alone = alone
        self.intercept = bool(norm is not None or alone or layer.use_bias)
        self.bias = 0.0 if alone or not layer.use_bias else np.asarray(layer.bias, np.float64)
        owner = layer if alone else norm
        self.scale: Any = np.ones(1) if owner is None else _scale(owner)
        self.mean = 0.0 if owner is None else np.asarray(owner.moving_mean, np.float64)
        beta = np.asarray(owner.beta, np.float64) if owner is not None and owner.center else 0.0
        matrix = self.reading.matrix()
        self.groups, _, out = matrix.shape
        if alone:
            self.matrix = matrix
        else:
            self.matrix = matrix * np.broadcast_to(self.scale, self.groups * out).reshape(self.groups, 1, out)
        self.offset = np.broadcast_to((self.bias - self.mean) * self.scale + beta, self.groups * out).copy()

    def start(self) -> FloatArray:
        """[groups, width, out], the offset as the last row where there is an intercept."""
        if not self.intercept:
            return self.matrix
        return np.concatenate([self.matrix, self.offset.reshape(self.groups, 1, -1)], axis=1)

    def __call__(self, rows: FloatArray) -> FloatArray:
        """[n, groups, out]."""
        made = rows.transpose(1, 0, 2) @ self.matrix.astype(np.float32)
        return made.transpose(1, 0, 2) + self.offset.reshape(self.groups, -1).astype(np.float32)

    def write(self, solution: FloatArray, sums: Sums) -> None:
        """Puts a solution into the layers; a batch normalisation gets the statistics of what it now reads."""
        if not self.intercept:
            self.reading.assign(solution)
            return
        matrix, offset = solution[:, :-1], solution[:, -1].reshape(-1)
        norm = self.layer if self.alone else self.norm
        if norm is None:
            self.reading.assign(matrix)
            self.layer.bias.assign(offset)
            return
        if self.alone:  # the rows are what it reads; the solution is its slope
            slope = matrix.reshape(-1)
            mean, variance = (value.reshape(-1) for value in sums.moments(np.ones_like(matrix)))
        else:
            slope = self.scale
            if norm.scale and norm.center:
                slope = np.where(np.abs(slope) > 1e-6 * np.abs(slope).max(), slope, 1.0)
            matrix = matrix / np.where(slope == 0, 1.0, slope).reshape(self.groups, 1, -1)
            self.reading.assign(matrix)
            mean, variance = (value.reshape(-1) for value in sums.moments(matrix))
            mean = mean + self.bias
        if norm.scale and norm.center:
            norm.moving_mean.assign(mean)
            norm.moving_variance.assign(variance)
            norm.gamma.assign(slope * np.sqrt(variance.astype(np.float32) + np.float64(norm.epsilon)))
            norm.beta.assign(offset + slope * (mean - self.bias))
        elif norm.center:
            norm.beta.assign(offset - (self.bias - self.mean) * slope)
        else:
            norm.moving_mean.assign(self.bias - offset / np.where(slope == 0, 1.0, slope))
