"""The proof that a model without the masked channels computes what the masked model computes."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import NDArray

from lib.detection import FaceDetector
from lib.detection.detector import MIN_SIDE_PX
from lib.errors import DataError, ModelError
from lib.models import anchors_of
from lib.pruning import largest_difference

logger = logging.getLogger(__name__)

TOLERANCE = 1e-4  # of any output value
BOX_TOLERANCE_PX = 0.01
SCORE_THRESHOLD = 0.05  # as published


@dataclass(frozen=True)
class Equality:
    """How far two models agree.

    Attributes:
        images: how many images they were compared on.
        largest_difference: of any output value on any of them.
        detections: how many faces the first model found; None: it is no detector.
        same_detections: whether both found the same faces on every image: as many, in the same order, with corners
            within 0.01 px and scores within 1e-4. Computed in double precision: in single precision the rounding of
            sums decides which of two boxes of almost the same score suppresses the other.

    """

    images: int
    largest_difference: float
    detections: int | None
    same_detections: bool

    @property
    def equal(self) -> bool:
        return self.largest_difference <= TOLERANCE and self.same_detections


def require_image_input(model: keras.Model) -> None:
    """Raises ModelError unless a model takes RGB images of any size and nothing else: no others can be compared."""
    shapes = [tuple(value.shape[1:]) for value in model.inputs]
    if shapes != [(None, None, 3)]:
        raise ModelError(
            f"model {model.name!r} takes {', '.join(map(str, shapes))} (height, width, channels); only models of one "
            "input of RGB images of any size, (None, None, 3), can be compared; leave the comparison out"
        )


def compare(masked: keras.Model, small: keras.Model, images_rgb: Iterable[NDArray[np.uint8]]) -> Equality:
    """Compares two models on images [H, W, 3], each at its own size.

    Images under 16 px are left out where detections are compared, which is logged.

    Raises:
        DataError: there is no image, or none is left.

    """
    return compare_each(masked, small, [images_rgb])[0]


def compare_each(
    masked: keras.Model, small: keras.Model, sources: Iterable[Iterable[NDArray[np.uint8]]]
) -> list[Equality]:
    """As `compare`, for several sources of images; what takes seconds, to compile the detectors, is done once."""
    try:
        anchors_of(masked)
        detectors = [FaceDetector(in_double_precision(model)) for model in (masked, small)]
    except ModelError:
        detectors = []
    return [_compared(masked, small, detectors, images) for images in sources]


def _compared(
    masked: keras.Model, small: keras.Model, detectors: Sequence[FaceDetector], images_rgb: Iterable[NDArray[np.uint8]]
) -> Equality:
    count, largest, found, same = 0, 0.0, 0, True
    for image in images_rgb:
        if detectors and min(image.shape[:2]) < MIN_SIDE_PX:
            logger.warning("not compared on an image of %dx%d px: under %d px", *image.shape[1::-1], MIN_SIDE_PX)
            continue
        count += 1
        largest = max(largest, largest_difference(masked, small, image[None].astype(np.float32)))
        if detectors:
            a, b = (detector(image, SCORE_THRESHOLD) for detector in detectors)
            found += len(a)
            same = same and _same(a, b)
    if not count:
        raise DataError(f"models cannot be compared without an image of at least {MIN_SIDE_PX} px on both sides")
    return Equality(count, largest, found if detectors else None, same)


def in_double_precision(model: keras.Model) -> keras.Model:
    """A copy of a functional model that computes in float64 with the same weights."""

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        return type(layer).from_config({**layer.get_config(), "dtype": "float64"})

    double = keras.models.clone_model(model, clone_function=copy)
    double.set_weights(model.get_weights())
    return double


def random_images(count: int, seed: int, smallest_px: int = 64, largest_px: int = 256) -> list[NDArray[np.uint8]]:
    """Images of noise, [H, W, 3] of any sizes in between."""
    random = np.random.default_rng(seed)
    sizes = random.integers(smallest_px, largest_px + 1, (count, 2))
    return [random.integers(0, 256, (height, width, 3), np.uint8) for height, width in sizes]


def _same(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    return (
        a.shape == b.shape
        and bool((np.abs(a[:, :4] - b[:, :4]) <= BOX_TOLERANCE_PX).all())
        and bool((np.abs(a[:, 4] - b[:, 4]) <= TOLERANCE).all())
    )
