"""`FaceDetector`: an image in, face boxes out, whatever format the model is in."""

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import keras
import numpy as np
from numpy.typing import NDArray

from lib.arrays import FloatArray
from lib.detection.formats import Network, open_network
from lib.detection.formats.keras import KerasNetwork
from lib.detection.formats.pb import DetectionSettings
from lib.errors import ConfigError, ModelError
from lib.geometry.suppression import in_whole_px, nms
from lib.models.zoo import located

MIN_SIDE_PX = 16
PADDING = 117  # a middle grey, near the mean that networks subtract
PUBLISHED = DetectionSettings()


class FaceDetector:
    """Finds faces with a trained detector.

    Args:
        model: path of a `.keras`, `.pb`, `.tflite` or `.onnx` file or of a SavedModel's folder, the name of published
            weights (`lib.models.zoo`), or a Keras model already in memory.
        iou_threshold: boxes that overlap a better one by more than this are dropped; None: what a frozen graph was
            made with, otherwise 0.3.
        max_detections: at most so many boxes an image; None: what a frozen graph was made with, otherwise 750.
        threads: of LiteRT and ONNX Runtime; None: LiteRT takes one, ONNX Runtime one a core.
        landmarks: whether a call returns each face's landmarks too.

    Raises:
        ModelError: the file is no detector of this toolkit, or finds no landmarks.
        ConfigError: a threshold or a number is out of range, or threads are given for a format that TensorFlow runs.

    """

    def __init__(
        self,
        model: str | os.PathLike[str] | keras.Model,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
        threads: int | None = None,
        landmarks: bool = False,
    ) -> None:
        self.network: Network = (
            KerasNetwork(model) if isinstance(model, keras.Model) else open_network(located(model), threads)
        )
        settings = getattr(self.network, "settings", PUBLISHED)
        given: dict[str, Any] = {"iou_threshold": iou_threshold, "max_detections": max_detections}
        settings = replace(settings, **{name: value for name, value in given.items() if value is not None})
        self.iou_threshold, self.max_detections = settings.iou_threshold, settings.max_detections
        self.landmarks = landmarks
        if landmarks and not self.network.anchors.landmarks:
            raise ModelError("this detector finds no landmarks; YuNet does, as a Keras model")

    def __call__(
        self, image_rgb: NDArray[np.uint8], score_threshold: float = 0.5, max_side: int | None = None
    ) -> FloatArray | Any:  # of a pair, Any spares all others to take it apart
        """Detects the faces of one image.

        A file of a fixed size sees the image scaled to fit, its proportions kept, and padded.

        Args:
            image_rgb: uint8 [H, W, 3], at least 16 px on both sides. Grey images ([H, W] or [H, W, 1]) are repeated
                to three channels; the alpha channel of [H, W, 4] is dropped.
            score_threshold: boxes with at least this score, 0..1, are returned.
            max_side: an image with a longer side is first scaled down to this many px; None: never.

        Returns:
            float32 [n, 5]: x1, y1, x2, y2 in pixels of the given image (not clipped to it) and score, best first. With
            `landmarks` a pair, the other part of which is float32 [n, k, 2]: x, y in pixels of each landmark.

        Raises:
            ValueError: another shape or type, or an image under 16 px.
            ConfigError: the score threshold is out of range.

        """
        boxes, points = self.faces(image_rgb, score_threshold, max_side)
        return (boxes, points) if self.landmarks else boxes

    def faces(
        self, image_rgb: NDArray[np.uint8], score_threshold: float = 0.5, max_side: int | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Boxes [n, 5] and landmarks [n, k, 2] of one image, whatever `landmarks` says; k is 0 for models without."""
        return self._faces([image_rgb], score_threshold, max_side)[0]

    def batch(
        self, images_rgb: Sequence[NDArray[np.uint8]], score_threshold: float = 0.5, max_side: int | None = None
    ) -> list[FloatArray]:
        """Detects the faces of many images of one size at once: the boxes of each, as for one.

        Raises:
            ValueError: as for one image, or the images differ in size.

        """
        return [boxes for boxes, _ in self._faces(images_rgb, score_threshold, max_side)]

    def _faces(
        self, images_rgb: Sequence[NDArray[np.uint8]], score_threshold: float, max_side: int | None
    ) -> list[tuple[FloatArray, FloatArray]]:
        if not 0 <= score_threshold <= 1:
            raise ConfigError(f"score_threshold must lie in 0..1, got {score_threshold}")
        images = [as_rgb(image) for image in images_rgb]
        sizes = sorted({image.shape[:2] for image in images})
        if len(sizes) > 1:
            raise ValueError(f"a batch needs images of one size, got {sizes[0]} and {sizes[1]} (height, width)")
        if max_side is not None and max_side < MIN_SIDE_PX:
            raise ValueError(f"max_side must be at least {MIN_SIDE_PX} px, got {max_side}")
        if not images:
            return []
        fitted = [fit(image, self.network.size_px, max_side) for image in images]
        found = self.network.candidates(np.stack([image for image, _ in fitted]), score_threshold)
        return [
            self._suppressed(candidates, scores, extent_px)
            for (candidates, scores), (_, extent_px) in zip(found, fitted, strict=True)
        ]

    def _suppressed(
        self, candidates: FloatArray, scores: FloatArray, extent_px: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        boxes = candidates[:, :4] * extent_px
        points = candidates[:, 4:].reshape(len(candidates), self.network.anchors.landmarks, 2) * extent_px[:2]
        compared = in_whole_px(boxes) if self.network.anchors.whole_px else boxes
        kept = nms(compared, scores, self.iou_threshold, self.max_detections)
        found = np.column_stack([boxes[kept], scores[kept]]).astype(np.float32).reshape(-1, 5)
        return found, points[kept].astype(np.float32)

    def candidates(self, image_rgb: NDArray[np.uint8], score_threshold: float) -> tuple[FloatArray, FloatArray]:
        """Decoded boxes [n, 4 + 2 landmarks] (relative) and scores [n] before NMS, the best 5000 at most."""
        return self.network.candidates(image_rgb[None], score_threshold)[0]


def fit(
    image_rgb: NDArray[np.uint8], size_px: tuple[int, int] | None, max_side: int | None = None
) -> tuple[NDArray[np.uint8], FloatArray]:
    """An image as a network sees it, and what brings relative boxes back to the image's pixels.

    Args:
        image_rgb: uint8 [H, W, 3].
        size_px: height and width that the network takes: the image is scaled to fit, its proportions kept, and padded
            with grey at the bottom and right. None: any.
        max_side: a longer side is scaled down to this many px; None: never.

    Returns:
        The image, and float32 [4]: boxes xyxy relative to it, times this, are in pixels of the given image.

    """
    height, width = image_rgb.shape[:2]
    factor = math.inf if max_side is None else max_side / max(height, width)
    factor = min(factor, 1.0) if size_px is None else min(factor, size_px[0] / height, size_px[1] / width)
    new_height, new_width = height, width
    if factor != 1:
        least = MIN_SIDE_PX if size_px is None else 1
        new_height, new_width = max(least, round(height * factor)), max(least, round(width * factor))
        how = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
        image_rgb = np.asarray(cv2.resize(image_rgb, (new_width, new_height), interpolation=how), np.uint8)
    sides = np.array([width, height], np.float32)
    if size_px is not None and image_rgb.shape[:2] != size_px:
        padded = np.full((*size_px, 3), PADDING, np.uint8)
        padded[:new_height, :new_width] = image_rgb
        image_rgb = padded
        sides *= np.array([size_px[1] / new_width, size_px[0] / new_height], np.float32)
    return image_rgb, np.tile(sides, 2)


def as_rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] from grey, RGB or RGBA; ValueError for anything else."""
    image = np.asarray(image)
    if image.dtype != np.uint8:
        raise ValueError(f"expected an image of uint8 0..255, got {image.dtype}; convert it first")
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4):
        raise ValueError(f"expected an image [H, W], [H, W, 1], [H, W, 3] (RGB) or [H, W, 4] (RGBA), got {image.shape}")
    if min(image.shape[:2]) < MIN_SIDE_PX:
        raise ValueError(
            f"an image needs at least {MIN_SIDE_PX} px on both sides, got {image.shape[1]}x{image.shape[0]}"
        )
    if image.shape[2] == 1:
        image = np.repeat(image, 3, axis=2)
    return np.ascontiguousarray(image[..., :3])
