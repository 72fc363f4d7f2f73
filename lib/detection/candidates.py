"""The few anchors of an image that may be faces, as boxes: everything else of a network's outputs is left alone."""

import math

import numpy as np

from lib.arrays import FloatArray
from lib.geometry.anchors import AnchorSpec, anchor_grid, decode
from lib.geometry.suppression import best_first, best_passing

MAX_CANDIDATES = 5000  # so many of the best enter NMS, as in the published test code


def from_scores(
    offsets: FloatArray, scores: FloatArray, anchors: AnchorSpec, size_px: tuple[int, int], threshold: float
) -> tuple[FloatArray, FloatArray]:
    """Decoded boxes [k, 4] (xyxy, relative to the image) and scores [k], best first.

    Args:
        offsets: [n, 4] of all anchors.
        scores: [n], 0..1.
        anchors: what the offsets belong to.
        size_px: height and width of the image that the network saw.
        threshold: lower scores are left out.

    """
    chosen = best_passing(scores, threshold, MAX_CANDIDATES)
    best = chosen[best_first(scores[chosen])]
    return decode(offsets[best], anchor_grid(anchors, *size_px)[best], anchors.code), scores[best]


def from_logits(
    offsets: FloatArray, logits: FloatArray, anchors: AnchorSpec, size_px: tuple[int, int], threshold: float
) -> tuple[FloatArray, FloatArray]:
    """The same from logits [n, 2] of background and face, and ordered by them.

    Scores near 1 round differently from one runtime to the next; the logits still tell them apart.
    """
    margins = logits[:, 1] - logits[:, 0]
    # A little below the threshold's own logit, so that the score itself decides.
    low = -math.inf if threshold <= 0 else math.log(threshold / (1 - threshold)) - 1e-3 if threshold < 1 else 0.0
    near = np.flatnonzero(margins >= low)
    passing = near[_sigmoid(margins[near]) >= threshold]
    chosen = passing[best_passing(margins[passing], -math.inf, MAX_CANDIDATES)]
    best = chosen[best_first(margins[chosen])]
    return decode(offsets[best], anchor_grid(anchors, *size_px)[best], anchors.code), _sigmoid(margins[best])


def _sigmoid(x: FloatArray) -> FloatArray:
    small = np.exp(-np.abs(x))  # never overflows
    return np.where(x >= 0, 1, small) / (1 + small)
