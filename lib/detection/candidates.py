"""The few anchors of an image that may be faces, as boxes: everything else of a network's outputs is left alone."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lib.arrays import FloatArray, IntArray
from lib.geometry.anchors import AnchorSpec, Scoring, anchor_grid, decode
from lib.geometry.scores import margins, probabilities
from lib.geometry.suppression import best_first, best_passing

MAX_CANDIDATES = 5000  # so many of the best enter NMS, as in the published test code


def joined(outputs: Mapping[str, Any]) -> FloatArray:
    """A network's offsets of boxes and, if it finds any, of landmarks: [B, n, 4 + 2 landmarks]."""
    boxes = np.asarray(outputs["boxes"])
    if "landmarks" not in outputs:
        return boxes
    return np.concatenate([boxes, np.asarray(outputs["landmarks"])], axis=-1)


def from_scores(
    offsets: FloatArray, scores: FloatArray, anchors: AnchorSpec, size_px: tuple[int, int], threshold: float
) -> tuple[FloatArray, FloatArray]:
    """Decoded boxes [k, 4 + 2 landmarks] (xyxy, relative to the image) and scores [k], best first.

    Args:
        offsets: [n, 4] of all anchors; further columns are of landmarks.
        scores: [n], 0..1.
        anchors: what the offsets belong to.
        size_px: height and width of the image that the network saw.
        threshold: lower scores are left out.

    """
    chosen = best_passing(scores, threshold, MAX_CANDIDATES)
    best = chosen[best_first(scores[chosen])]
    return _decoded(offsets, best, anchors, size_px), scores[best]


def from_logits(
    offsets: FloatArray, logits: FloatArray, anchors: AnchorSpec, size_px: tuple[int, int], threshold: float
) -> tuple[FloatArray, FloatArray]:
    """The same from two logits an anchor [n, 2], and ordered by their margins.

    Scores near 1 round differently from one runtime to the next; the margins still tell them apart.
    """
    leads = margins(logits, anchors.scoring)
    near = np.flatnonzero(leads >= _least_margin(threshold, anchors.scoring))
    passing = near[probabilities(leads[near], anchors.scoring) >= threshold]
    chosen = passing[best_passing(leads[passing], -math.inf, MAX_CANDIDATES)]
    best = chosen[best_first(leads[chosen])]
    return _decoded(offsets, best, anchors, size_px), probabilities(leads[best], anchors.scoring)


def _decoded(offsets: FloatArray, chosen: IntArray, anchors: AnchorSpec, size_px: tuple[int, int]) -> FloatArray:
    """The boxes of the chosen anchors."""
    grid = anchor_grid(anchors, *size_px)
    return decode(offsets.take(chosen, axis=0), grid.take(chosen, axis=0), anchors.code)


def _least_margin(threshold: float, scoring: Scoring) -> float:
    """A little below the threshold's own margin, so that the score itself decides."""
    if threshold <= 0:
        return -math.inf
    if scoring == "softmax":
        return math.log(threshold / (1 - threshold)) - 1e-3 if threshold < 1 else 0.0
    return math.log(threshold) - 1e-3
