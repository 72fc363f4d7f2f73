"""Photometric distortion: changes of brightness, contrast, saturation and hue, drawn first and applied afterwards.

SSD's (arXiv 1512.02325), as S3FD, EResFD and DSFD use it. What is drawn does not depend on the image, and each pixel
changes by itself, so the distortion may be applied before or after an image is scaled.
"""

from itertools import groupby
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Table = NDArray[np.uint8]

# name: lowest and highest amount
_RANGES = {
    "brightness": (-0.125, 0.125),  # added, share of white
    "contrast": (0.5, 1.5),  # factor
    "saturation": (0.5, 1.5),  # factor
    "hue": (-18.0, 18.0),  # added, degrees
}
_HSV_CHANNEL = {"hue": 0, "saturation": 1}


class Change(NamedTuple):
    """One change: its name (brightness, contrast, saturation or hue) and its amount."""

    name: str
    amount: float


def draw_distortion(rng: np.random.Generator) -> tuple[Change, ...]:
    """Each of the four changes with probability 0.5, in random order."""
    names = list(_RANGES)
    order, wanted, shares = rng.permutation(len(names)), rng.random(len(names)) < 0.5, rng.random(len(names))
    changes = []
    for place in order[wanted]:
        low, high = _RANGES[names[place]]
        changes.append(Change(names[place], float(low + shares[place] * (high - low))))
    return tuple(changes)


def distort(image: Image, distortion: tuple[Change, ...]) -> Image:
    """uint8 RGB [H, W, 3] -> a changed copy (the same array if there is nothing to change).

    Neighbours share what they can: brightness and contrast one table, saturation and hue one way to HSV and back.
    """
    for in_hsv, changes in groupby(distortion, key=lambda change: change.name in _HSV_CHANNEL):
        if in_hsv:
            hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
            for change in changes:
                channel = _HSV_CHANNEL[change.name]  # taken out and put back: faster than one table of three channels
                cv2.insertChannel(cv2.LUT(cv2.extractChannel(hsv, channel), _table(change)), hsv, channel)
            image = np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)
        else:
            table = np.arange(256, dtype=np.uint8)
            for change in changes:
                table = _table(change)[table]
            image = np.asarray(cv2.LUT(image, table), np.uint8)
    return image


def _table(change: Change) -> Table:
    """What becomes of each of the 256 values of a channel (of its own plane for saturation and hue)."""
    values = np.arange(256)
    if change.name == "hue":
        return ((values + change.amount / 2) % 180).astype(np.uint8)  # OpenCV's hue counts in 2 degrees
    changed = values + 255 * change.amount if change.name == "brightness" else values * change.amount
    return np.clip(changed, 0, 255).astype(np.uint8)
