"""The precision-recall curve: its area and its picture."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from lib.arrays import FloatArray
from lib.errors import DataError
from lib.files import replacing

WIDTH_PX, HEIGHT_PX = 1000, 860
LEFT_PX, RIGHT_PX, TOP_PX, BOTTOM_PX = 110, 960, 80, 760  # edges of the axes
FONT = cv2.FONT_HERSHEY_SIMPLEX
TEXT_BGR, GRID_BGR = (40, 40, 40), (225, 225, 225)
# Colours that colour-blind eyes tell apart too (Okabe and Ito 2008).
CURVE_BGR = ((178, 114, 0), (0, 159, 230), (0, 94, 213), (115, 158, 0), (167, 121, 204))
FINE_BITS = 4  # cv2 draws to 1/16 px


@dataclass(frozen=True)
class Curve:
    """Precision against recall for one set of faces.

    Attributes:
        ap: area under the precision envelope, 0..1; None without a single face, where recall is not defined.
        faces: how many faces count.
        recall: float64 [n], ascending, at descending score thresholds; zeros where `ap` is None.
        precision: float64 [n]; 0 at thresholds that no detection reaches.

    """

    ap: float | None
    faces: int
    recall: FloatArray
    precision: FloatArray


def area_under_envelope(recall: FloatArray, precision: FloatArray) -> float:
    """Area under the precision envelope over recall, all points (PASCAL VOC 2010 and later).

    Args:
        recall: [n] ascending, 0..1.
        precision: [n], 0..1; the envelope at a recall is the best precision at this or a higher one.

    """
    steps = np.diff(recall, prepend=0.0)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(steps * envelope))


def draw_curves(curves: Mapping[str, Curve], title: str) -> NDArray[np.uint8]:
    """Draws the curves into one pair of axes, both 0..1, with their names and AP; a curve without a face only by name.

    Returns:
        uint8 [860, 1000, 3], BGR.

    """
    image = np.full((HEIGHT_PX, WIDTH_PX, 3), 255, np.uint8)
    for tenth in range(11):
        x, y = _pixels(np.array([tenth / 10]), np.array([tenth / 10]))[0]
        cv2.line(image, (round(x), TOP_PX), (round(x), BOTTOM_PX), GRID_BGR, 1)
        cv2.line(image, (LEFT_PX, round(y)), (RIGHT_PX, round(y)), GRID_BGR, 1)
        if tenth % 2 == 0:
            _text(image, f"{tenth / 10:.1f}", round(x), BOTTOM_PX + 30, 0.6, anchor=0.5)
            _text(image, f"{tenth / 10:.1f}", LEFT_PX - 12, round(y) + 7, 0.6, anchor=1.0)
    cv2.rectangle(image, (LEFT_PX, TOP_PX), (RIGHT_PX, BOTTOM_PX), TEXT_BGR, 1)
    middle = (LEFT_PX + RIGHT_PX) // 2
    _text(image, title, middle, TOP_PX - 32, 0.75, anchor=0.5)
    _text(image, "recall", middle, BOTTOM_PX + 70, 0.75, anchor=0.5)
    _text_upwards(image, "precision", 42, (TOP_PX + BOTTOM_PX) // 2, 0.75)

    for index, curve in enumerate(curves.values()):
        reached = (curve.recall > 0) | (curve.precision > 0)
        points = _pixels(curve.recall[reached], curve.precision[reached])
        fine = np.round(points * (1 << FINE_BITS)).astype(np.int32).reshape(-1, 1, 2)
        if len(fine):
            cv2.polylines(image, [fine], False, CURVE_BGR[index % len(CURVE_BGR)], 2, cv2.LINE_AA, FINE_BITS)

    # Below the curves of any good detector.
    top = BOTTOM_PX - 20 - 34 * len(curves)
    for index, (name, curve) in enumerate(curves.items()):
        y = top + 34 * index + 20
        cv2.line(image, (LEFT_PX + 24, y - 6), (LEFT_PX + 70, y - 6), CURVE_BGR[index % len(CURVE_BGR)], 3, cv2.LINE_AA)
        _text(image, f"{name}: " + ("no face" if curve.ap is None else f"AP {curve.ap:.4f}"), LEFT_PX + 84, y, 0.65)
    return image


def write_picture(path: str | os.PathLike[str], image_bgr: NDArray[np.uint8]) -> None:
    """Writes a picture of `draw_curves`; the file is whole or absent.

    Raises:
        DataError: OpenCV does not know the ending of `path`, or cannot write there.

    """
    try:
        with replacing(path) as temporary:
            if not cv2.imwrite(str(temporary), image_bgr):
                raise OSError("OpenCV wrote nothing")
    except (cv2.error, OSError) as error:
        raise DataError(f"{path}: the picture cannot be written; expected a name ending in .png or .jpg") from error


def _pixels(recall: FloatArray, precision: FloatArray) -> FloatArray:
    """[n] and [n] in 0..1 -> [n, 2] x, y in px of the picture."""
    return np.column_stack([LEFT_PX + recall * (RIGHT_PX - LEFT_PX), BOTTOM_PX - precision * (BOTTOM_PX - TOP_PX)])


def _text(image: NDArray[np.uint8], text: str, x: int, y: int, scale: float, anchor: float = 0.0) -> None:
    """Text whose base line is at y and whose left edge (anchor 0), middle (0.5) or right edge (1) is at x."""
    (width, _), _ = cv2.getTextSize(text, FONT, scale, 1)
    cv2.putText(image, text, (round(x - anchor * width), y), FONT, scale, TEXT_BGR, 1, cv2.LINE_AA)


def _text_upwards(image: NDArray[np.uint8], text: str, x: int, y: int, scale: float) -> None:
    """Text that reads from bottom to top, its base line at x and its middle at y."""
    (width, height), below = cv2.getTextSize(text, FONT, scale, 1)
    strip = np.full((height + below, width, 3), 255, np.uint8)
    _text(strip, text, 0, height, scale)
    turned = np.rot90(strip)
    top, left = y - width // 2, x - height
    image[top : top + turned.shape[0], left : left + turned.shape[1]] = turned
