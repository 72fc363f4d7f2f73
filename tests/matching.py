"""Comparing detections."""

import numpy as np

from lib.arrays import FloatArray
from lib.geometry.boxes import iou_matrix


def unmatched(found: FloatArray, expected: FloatArray, iou: float = 0.99, score: float = 1e-3) -> list[FloatArray]:
    """Rows (x1, y1, x2, y2, score) of either without a partner in the other (IoU, score difference)."""
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    same = iou_matrix(found[:, :4], expected[:, :4]) >= iou
    same &= np.abs(found[:, None, 4] - expected[None, :, 4]) <= score
    return [*found[~same.any(axis=1)], *expected[~same.any(axis=0)]]
