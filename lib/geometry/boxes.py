"""Plain arithmetic on axis-aligned boxes. Arrays are NumPy, the format is in every name.

`xyxy` is (x1, y1, x2, y2), `cxcywh` is (centre x, centre y, width, height). Coordinates are continuous: a box from
x1 to x2 is x2 - x1 wide (no "+1"), except in `vote`.
"""

import numpy as np

from lib.arrays import FloatArray


def xyxy_to_cxcywh(boxes_xyxy: FloatArray) -> FloatArray:
    """[..., 4] corners -> [..., 4] centres and sizes, in the same unit."""
    top_left, bottom_right = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    return np.concatenate([(top_left + bottom_right) / 2, bottom_right - top_left], axis=-1)


def cxcywh_to_xyxy(boxes_cxcywh: FloatArray) -> FloatArray:
    """[..., 4] centres and sizes -> [..., 4] corners, in the same unit."""
    x, y, width, height = np.moveaxis(boxes_cxcywh, -1, 0)  # columns: loops over rows of two or four are slow
    half_width, half_height = width / 2, height / 2
    return np.stack([x - half_width, y - half_height, x + half_width, y + half_height], axis=-1)


def area(boxes_xyxy: FloatArray) -> FloatArray:
    """[..., 4] -> [...]; an inverted box has area 0."""
    x1, y1, x2, y2 = np.moveaxis(boxes_xyxy, -1, 0)
    return np.maximum(x2 - x1, 0) * np.maximum(y2 - y1, 0)


def iou_matrix(a_xyxy: FloatArray, b_xyxy: FloatArray) -> FloatArray:
    """Intersection over union of every pair: [n, 4] and [m, 4] -> [n, m] in 0..1 (0 for two empty boxes)."""
    # One coordinate at a time: [n, m] temporaries stay in cache, [n, m, 2] ones do not.
    width = np.minimum(a_xyxy[:, None, 2], b_xyxy[None, :, 2]) - np.maximum(a_xyxy[:, None, 0], b_xyxy[None, :, 0])
    height = np.minimum(a_xyxy[:, None, 3], b_xyxy[None, :, 3]) - np.maximum(a_xyxy[:, None, 1], b_xyxy[None, :, 1])
    intersection = np.maximum(width, 0) * np.maximum(height, 0)
    union = area(a_xyxy)[:, None] + area(b_xyxy)[None, :] - intersection
    return intersection / np.maximum(union, np.finfo(intersection.dtype).tiny)
