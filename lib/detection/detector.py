"""`FaceDetector`: an image in, face boxes out, whatever format the model is in."""

import os
from pathlib import Path
from typing import Any, Protocol

import cv2
import keras
import numpy as np
from numpy.typing import NDArray

from lib.arrays import FloatArray
from lib.detection.formats.pb import DetectionSettings, FrozenGraph
from lib.errors import ModelError
from lib.geometry.anchors import anchor_grid, decode
from lib.geometry.scores import margins, probabilities
from lib.geometry.suppression import best_first, best_passing, in_whole_px, nms
from lib.models import anchors_of, inference_model, load
from lib.models.any_size import ready_for_any_size
from lib.models.folding import fold_batch_norms

MIN_SIDE_PX = 16
PUBLISHED = DetectionSettings()


class Network(Protocol):
    """What `FaceDetector` needs of a model, one class a format.

    Attributes:
        landmarks: how many points of each face it finds.
        whole_px: see `AnchorSpec`.

    """

    landmarks: int
    whole_px: bool

    def candidates(self, image_rgb: NDArray[np.uint8], score_threshold: float) -> tuple[FloatArray, FloatArray]:
        """Decoded boxes [n, 4 + 2 landmarks] and scores [n] before NMS, the best 5000 at most.

        A box is xyxy and then the x, y of each landmark, all relative to the image.
        """
        ...


class FaceDetector:
    """Finds faces with a trained detector.

    Args:
        model: path of a `.keras` file or of a frozen graph (`.pb`), or a Keras model already in memory.
        iou_threshold: boxes that overlap a better one by more than this are dropped; None: what a frozen graph was
            made with, otherwise 0.3.
        max_detections: at most so many boxes an image; None: what a frozen graph was made with, otherwise 750.
        landmarks: whether a call returns each face's landmarks too.

    Raises:
        ModelError: the file is no detector of this toolkit, or finds no landmarks.

    """

    def __init__(
        self,
        model: str | os.PathLike[str] | keras.Model,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
        landmarks: bool = False,
    ) -> None:
        self.network: Network
        settings = PUBLISHED
        if not isinstance(model, keras.Model) and Path(model).suffix == ".pb":
            self.network = frozen = FrozenGraph(model)
            settings = frozen.settings
        else:
            in_memory = isinstance(model, keras.Model)
            self.network = KerasNetwork(model if in_memory else load(model), live=in_memory)
        self.iou_threshold = settings.iou_threshold if iou_threshold is None else iou_threshold
        self.max_detections = settings.max_detections if max_detections is None else max_detections
        self.landmarks = landmarks
        if landmarks and not self.network.landmarks:
            raise ModelError("this detector finds no landmarks; YuNet does, as a Keras model")

    def __call__(
        self, image_rgb: NDArray[np.uint8], score_threshold: float = 0.5, max_side: int | None = None
    ) -> FloatArray | Any:  # of a pair, Any spares all others to take it apart
        """Detects the faces of one image.

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

        """
        boxes, points = self.faces(image_rgb, score_threshold, max_side)
        return (boxes, points) if self.landmarks else boxes

    def faces(
        self, image_rgb: NDArray[np.uint8], score_threshold: float = 0.5, max_side: int | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Boxes [n, 5] and landmarks [n, k, 2] of one image, whatever `landmarks` says; k is 0 for models without."""
        image = as_rgb(image_rgb)
        scale = 1.0
        if max_side is not None:
            if max_side < MIN_SIDE_PX:
                raise ValueError(f"max_side must be at least {MIN_SIDE_PX} px, got {max_side}")
            scale = min(1.0, max_side / max(image.shape[:2]))
        height, width = image.shape[:2]
        if scale < 1:
            size = (max(MIN_SIDE_PX, round(width * scale)), max(MIN_SIDE_PX, round(height * scale)))
            image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        boxes, scores = self.candidates(image, score_threshold)
        points = boxes[:, 4:].reshape(len(boxes), -1, 2) * np.array([width, height], np.float32)
        boxes = boxes[:, :4] * np.array([width, height, width, height], np.float32)
        compared = in_whole_px(boxes) if self.network.whole_px else boxes
        kept = nms(compared, scores, self.iou_threshold, self.max_detections)
        found = np.column_stack([boxes[kept], scores[kept]]).astype(np.float32).reshape(-1, 5)
        return found, points[kept].astype(np.float32)

    def candidates(self, image_rgb: NDArray[np.uint8], score_threshold: float) -> tuple[FloatArray, FloatArray]:
        """Decoded boxes [n, 4 + 2 landmarks] (relative) and scores [n] before NMS, the best 5000 at most."""
        return self.network.candidates(image_rgb, score_threshold)


class KerasNetwork:
    """A Keras model of this toolkit as a `Network`.

    Args:
        model: a detector.
        live: whether the model may still be trained; otherwise its batch normalisation is folded, which saves a quarter
            of the time and computes the very numbers that a frozen graph computes.

    """

    def __init__(self, model: keras.Model, live: bool) -> None:
        self.anchors = anchors_of(model)
        self.landmarks, self.whole_px = self.anchors.landmarks, self.anchors.whole_px
        model = inference_model(model)
        self.model = model if live else fold_batch_norms(model)
        ready_for_any_size(self.model)

    def candidates(self, image_rgb: NDArray[np.uint8], score_threshold: float) -> tuple[FloatArray, FloatArray]:
        """Decoded boxes [n, 4 + 2 landmarks] (relative) and scores [n] before NMS, the best 5000 at most."""
        outputs = self.model.predict_on_batch(image_rgb[None].astype(np.float32))
        offsets, logits = np.asarray(outputs["boxes"][0]), np.asarray(outputs["scores"][0], np.float32)
        if self.landmarks:
            offsets = np.concatenate([offsets, np.asarray(outputs["landmarks"][0])], axis=1)
        leads = margins(logits, self.anchors.scoring)
        scores = probabilities(leads, self.anchors.scoring)
        passing = np.flatnonzero(scores >= score_threshold)
        chosen = best_passing(leads[passing], -np.inf, PUBLISHED.max_candidates)
        best = passing[chosen[best_first(leads[passing][chosen])]]
        anchors = anchor_grid(self.anchors, *image_rgb.shape[:2])
        return decode(offsets[best], anchors[best], self.anchors.code), scores[best]


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
