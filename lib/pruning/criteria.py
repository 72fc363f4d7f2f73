"""Scores of filters: the lowest go first. A kernel is an array [kh, kw, channels in, filters]."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lib.arrays import FloatArray

_ROWS = 128  # filters whose distances are worked out at a time


def fpgm(kernel: FloatArray) -> FloatArray:
    """Sum of the Euclidean distances to all other filters, [filters] (He et al., arXiv 1811.00250, equation 7).

    The lowest are nearest to the geometric median of the layer: the others can best make up for them.
    """
    filters = _as_rows(kernel)
    squares = (filters**2).sum(axis=1)
    sums = np.zeros(len(filters))
    for start in range(0, len(filters), _ROWS):  # each distance once, in pieces that fit a processor's cache
        rows = slice(start, start + _ROWS)
        distances = filters[rows] @ filters[start:].T
        distances *= -2
        distances += squares[rows, None]
        distances += squares[start:]
        np.fill_diagonal(distances, 0)
        np.sqrt(np.maximum(distances, 0, out=distances), out=distances)
        sums[rows] += distances.sum(axis=1)
        sums[start + _ROWS :] += distances[:, _ROWS:].sum(axis=0)
    return sums


def l1(kernel: FloatArray) -> FloatArray:
    """Sum of absolute weights, [filters] (Li et al., arXiv 1608.08710, section 3.1)."""
    return np.abs(_as_rows(kernel)).sum(axis=1)


def l2(kernel: FloatArray) -> FloatArray:
    """Euclidean norm of the weights, [filters]."""
    return np.sqrt((_as_rows(kernel) ** 2).sum(axis=1))


def lamp(kernel: FloatArray) -> FloatArray:
    """Each filter's squared norm over the sum of those that are not smaller, [filters].

    The score of Lee et al. (arXiv 2010.07611, equation 4), of filters in place of weights; of equal ones the first has
    the largest sum. The largest filter of a layer scores 1; a layer of zeros scores 0.
    """
    squares = (_as_rows(kernel) ** 2).sum(axis=1)
    order = np.argsort(squares, kind="stable")
    left = np.cumsum(squares[order][::-1])[::-1]
    scores = np.zeros_like(squares)
    scores[order] = np.divide(squares[order], left, out=np.zeros_like(left), where=left > 0)
    return scores


Score = Callable[[FloatArray], FloatArray]
Criterion = str | Score | Mapping[str, FloatArray]

CRITERIA: dict[str, Score] = {"fpgm": fpgm, "l1": l1, "l2": l2, "lamp": lamp}
GAMMA = "gamma"  # the size of a batch normalisation's scale (Liu et al., arXiv 1708.06519); looks at no filter
RANDOM = "random"  # a criterion too, one that looks at no weight
NAMES = (*CRITERIA, GAMMA, RANDOM)


def combined(scores: Sequence[FloatArray]) -> FloatArray:
    """Score of each channel of a tied set, [channels]: the mean of its members' `scores`, [channels] each.

    Each member's scores are first divided by their mean. A layer's scores grow with the size and number of its weights,
    which says nothing about the channel; relative to their mean they say how much a filter stands out in its layer,
    and every member has the same say. A sum of raw scores would leave the choice to the largest layer; a minimum or
    maximum would leave it to one member, and pull out what the others need.
    """
    return np.mean([score / mean if (mean := score.mean()) > 0 else score for score in scores], axis=0)


def lowest(scores: FloatArray, count: int) -> tuple[int, ...]:
    """Indices of the `count` lowest scores, ascending; of equal scores the first goes first."""
    return tuple(sorted(np.argsort(scores, kind="stable")[:count].tolist()))


def _as_rows(kernel: FloatArray) -> FloatArray:
    """[kh, kw, in, filters] -> [filters, kh * kw * in] in double precision."""
    return np.asarray(kernel, np.float64).reshape(-1, kernel.shape[-1]).T
