"""An annotated image, read and held against its boxes: labels of another size or unit teach nothing, silently."""

import numpy as np
from numpy.typing import NDArray

from lib.arrays import FloatArray
from lib.data.annotations import Record, are_relative
from lib.data.images import read_rgb
from lib.errors import DataError

# WIDER FACE has no box of which less lies in its image.
LEAST_INSIDE = 0.5
TOLERATED_SHARE = 0.01  # more unusable images than this share (and more than one) are no accident


class MisfitError(DataError):
    """The boxes of an image cannot be its own."""


def read_fitting(record: Record) -> NDArray[np.uint8]:
    """The image of a record, uint8 RGB [H, W, 3].

    Raises:
        DataError: it cannot be read.
        MisfitError: its boxes do not fit it.

    """
    image = read_rgb(record.image)
    height, width = image.shape[:2]
    if reason := misfit(record.boxes_xyxy_px, height, width):
        raise MisfitError(f"{record.image}: {reason}")
    return image


def misfit(boxes_xyxy_px: FloatArray, height_px: int, width_px: int) -> str:
    """Why boxes [n, 4] cannot belong to an image of a size; "" where they can."""
    if not len(boxes_xyxy_px):
        return ""
    if are_relative(boxes_xyxy_px):
        return "its boxes seem to be shares of its sides; multiply them by its width and height in pixels"
    size = np.array([width_px, height_px], np.float32)
    first, last = boxes_xyxy_px[:, :2], boxes_xyxy_px[:, 2:]
    inside = np.maximum(np.minimum(last, size) - np.maximum(first, 0), 0).prod(axis=1)
    far = inside < LEAST_INSIDE * (last - first).prod(axis=1)
    if not far.any():
        return ""
    box = ", ".join(f"{value:g}" for value in boxes_xyxy_px[int(far.argmax())].tolist())
    return (
        f"{far.sum()} of {len(far)} boxes lie outside of its {width_px}x{height_px} px by more than half, such as "
        f"x1, y1, x2, y2 = {box}; were they made on a larger picture, or are they corners where width and height are "
        "expected?"
    )


def too_many(unusable: int, images: int) -> bool:
    """Whether so many of the images are more than an accident."""
    return unusable > max(1, TOLERATED_SHARE * images)
