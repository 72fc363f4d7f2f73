"""Test protocols: at which sizes an image is shown to a detector, and how the detections become one list.

Every protocol is a function of a detector and an image. A result is worth comparing only with results of the same
protocol, so tables and result folders name it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from lib.arrays import FloatArray
from lib.detection.detector import as_rgb
from lib.geometry.suppression import vote

Image = NDArray[np.uint8]
Detections = NDArray[np.float32]
# (uint8 RGB image [H, W, 3], score threshold) -> [n, 5] x1, y1, x2, y2 in pixels of that image and score, best first.
Detector = Callable[[Image, float], FloatArray]

SCORE_THRESHOLD = 0.05
VOTING_IOU = 0.3
MAX_VOTED = 750
BIG_FACE_PX = 30  # what a scaled-down image may report: sides over this
SMALL_FACE_PX = 100  # what a scaled-up image may report: sides under this


@dataclass(frozen=True)
class Protocol:
    """A named way to test one image.

    Attributes:
        name: as `PROTOCOLS` and result folders have it.
        max_detections: how many boxes the detector has to return for one size of the image.
        test: (detector, image) -> float32 [n, 5] x1, y1, x2, y2 in pixels and score, best first.

    """

    name: str
    max_detections: int
    test: Callable[[Detector, Image], Detections]

    def __call__(self, detector: Detector, image_rgb: Image) -> Detections:
        return self.test(detector, image_rgb)


def single(detector: Detector, image_rgb: Image) -> Detections:
    """One size: the image, or a larger one scaled down to as many pixels as 1700 x 1200 has.

    The single-scale test of the published EResFD code (arXiv 2204.01209).

    Args:
        detector: called with the threshold 0.05.
        image_rgb: uint8 as `FaceDetector` takes it.

    Returns:
        float32 [n, 5]: x1, y1, x2, y2 in pixels of the image (not clipped to it) and score, best first.

    """
    image = as_rgb(image_rgb)
    return _detect(detector, image, min(1.0, _room(image, 1700 * 1200))).astype(np.float32)


def multiscale(detector: Detector, image_rgb: Image) -> Detections:
    """The multi-scale test behind the published numbers of EResFD (arXiv 2204.01209) and B-FPGM.

    The image, its mirror image, the image scaled down (large faces only) and scaled up (small faces only), merged by
    box voting; lone boxes stay. Arguments and result as `single`, at most 750 boxes.
    """
    image = as_rgb(image_rgb)
    largest = _room(image, 1700 * 1200)
    base = min(1.0, largest)
    upright = _detect(detector, image, base)
    mirrored = _detect(detector, np.ascontiguousarray(image[:, ::-1]), base)
    mirrored[:, [0, 2]] = image.shape[1] - mirrored[:, [2, 0]]
    passes = [upright, mirrored, *_other_sizes(detector, image, largest, _detect)]
    return vote(np.concatenate(passes), VOTING_IOU, MAX_VOTED)


def pruned_dsfd(detector: Detector, image_rgb: Image) -> Detections:
    """The multi-scale test of Pruned DSFD: smaller sizes than `multiscale`, no mirror image, lone boxes dropped.

    The detector sees every size stretched to the next greater multiple of 32 px on both sides. Where nothing is left
    the result is empty; the code of Pruned DSFD wrote one box of zeros then. Arguments and result as `single`, at most
    750 boxes.
    """
    image = as_rgb(image_rgb)
    largest = min(3.0, _room(image, 1000 * 1000))
    passes = [
        _detect_stretched(detector, image, min(1.0, largest)),
        *_other_sizes(detector, image, largest, _detect_stretched),
    ]
    return vote(np.concatenate(passes), VOTING_IOU, MAX_VOTED, keep_lone=False)


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("single", 750, single),
        Protocol("multiscale", 750, multiscale),
        Protocol("pruned_dsfd", 1500, pruned_dsfd),
    )
}


def other_factors(largest: float) -> tuple[float, list[float]]:
    """By which factors an image is scaled beside its base size: down by the first, up (or less far down) by the others.

    Args:
        largest: the factor that brings the image to the largest size allowed.

    """
    down = 0.5 if largest >= 0.75 else 0.5 * largest
    if largest <= 1:
        return down, [(down + largest) / 2]
    up = [min(2.0, largest)]
    if largest > 2:
        factor = 4.0
        while factor < largest:
            up.append(factor)
            factor *= 2
        up.append(largest)
    return down, up


def _other_sizes(
    detector: Detector, image: Image, largest: float, detect: Callable[[Detector, Image, float], FloatArray]
) -> list[FloatArray]:
    """Detections at `other_factors`, each size only with the faces that it is good for."""
    down, others = other_factors(largest)
    found = [_with_sides(detect(detector, image, down), over_px=BIG_FACE_PX)]
    for factor in others:
        detections = detect(detector, image, factor)
        if factor > 1:
            found.append(_with_sides(detections, under_px=SMALL_FACE_PX))
        else:
            found.append(_with_sides(detections, over_px=BIG_FACE_PX))
    return found


def _with_sides(detections: FloatArray, over_px: float = 0, under_px: float = math.inf) -> FloatArray:
    """Those whose longer side is over `over_px` and whose shorter side is under `under_px`; sides counted with + 1."""
    sides = detections[:, 2:4] - detections[:, :2] + 1
    return detections[(sides.max(axis=1) > over_px) & (sides.min(axis=1) < under_px)]


def _room(image: Image, pixels: int) -> float:
    """The factor that brings the image to so many pixels."""
    return math.sqrt(pixels / (image.shape[0] * image.shape[1]))


def _detect(detector: Detector, image: Image, factor: float) -> FloatArray:
    """float64 [n, 5] in pixels of the image, found in the image scaled by `factor`.

    A scaled image with a side of 128 px or less is brought to 128 px there. The published code still divides what is
    found in it by the nominal factor, which puts the boxes elsewhere; so do we, to test by the same protocol.
    """
    if factor == 1:
        return _scaled_back(detector(image, SCORE_THRESHOLD), factor)
    scaled = _rescaled(image, factor)
    height, width = scaled.shape[:2]
    if min(height, width) <= 128:
        ratio = 128 / min(height, width)
        size = (int(width * ratio), 128) if height <= width else (128, int(height * ratio))
        scaled = _resized(scaled, size)
    return _scaled_back(detector(scaled, SCORE_THRESHOLD), factor)


def _detect_stretched(detector: Detector, image: Image, factor: float) -> FloatArray:
    """float64 [n, 5] in pixels of the image, found in the image scaled by `factor` and stretched to multiples of 32."""
    scaled = _rescaled(image, factor)
    height, width = scaled.shape[:2]
    size = ((width // 32 + 1) * 32, (height // 32 + 1) * 32)
    detections = _scaled_back(detector(_resized(scaled, size), SCORE_THRESHOLD), factor)
    detections[:, :4] *= np.array([width, height, width, height]) / np.array([*size, *size])
    return detections


def _scaled_back(detections: FloatArray, factor: float) -> FloatArray:
    scaled = detections.astype(np.float64)
    scaled[:, :4] /= factor
    return scaled


def _rescaled(image: Image, factor: float) -> Image:
    if factor == 1:
        return image
    return np.asarray(cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR), np.uint8)


def _resized(image: Image, size: tuple[int, int]) -> Image:
    """`size` is (width, height), OpenCV's order."""
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), np.uint8)
