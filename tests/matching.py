"""Comparing detections."""

import numpy as np

from lib.arrays import FloatArray
from lib.geometry.boxes import iou_matrix


def without_twin(found: FloatArray, among: FloatArray, iou: float = 0.99, score: float = 1e-3) -> list[FloatArray]:
    """Rows (x1, y1, x2, y2, score) of the first that have no partner in the other (IoU, score difference)."""
    found, among = found.astype(np.float64), among.astype(np.float64)
    same = iou_matrix(found[:, :4], among[:, :4]) >= iou
    same &= np.abs(found[:, None, 4] - among[None, :, 4]) <= score
    return list(found[~same.any(axis=1)])


def unmatched(
    found: FloatArray, expected: FloatArray, iou: float = 0.99, score: float = 1e-3, most: int | None = None
) -> list[FloatArray]:
    """Rows of either without a partner in the other.

    Of `most` rows, as many as a detector may return, rounding chooses the last among equals: rows within 1e-5 of the
    lowest score of so many need no partner.
    """
    lowest = max((rows[:, 4].min() + 1e-5 for rows in (found, expected) if len(rows) == most), default=-np.inf)
    alone = without_twin(found, expected, iou, score) + without_twin(expected, found, iou, score)
    return [row for row in alone if row[4] > lowest]
