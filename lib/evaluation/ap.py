"""Average precision of face detections: how good a detector is, in one number."""

import logging
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from lib.arrays import FloatArray
from lib.data.annotations import Record
from lib.data.fit import MisfitError, read_fitting, too_many
from lib.detection.detector import MIN_SIDE_PX
from lib.errors import DataError
from lib.evaluation.curve import area_under_envelope
from lib.geometry.boxes import iou_matrix
from lib.geometry.suppression import best_first

logger = logging.getLogger(__name__)

IOU_THRESHOLD = 0.5


def average_precision(
    detections: Sequence[FloatArray], faces: Sequence[FloatArray], iou_threshold: float = IOU_THRESHOLD
) -> float:
    """Area under the precision envelope over recall, every score a threshold (PASCAL VOC 2010 and later).

    Args:
        detections, faces, iou_threshold: see `precision_recall`.

    Returns:
        AP, 0..1.

    Raises:
        ValueError: the lists differ in length, or there is no face at all, so that recall is not defined.

    """
    return area_under_envelope(*precision_recall(detections, faces, iou_threshold))


def precision_recall(
    detections: Sequence[FloatArray], faces: Sequence[FloatArray], iou_threshold: float = IOU_THRESHOLD
) -> tuple[FloatArray, FloatArray]:
    """Recall, ascending, and precision at every score.

    In each image, by descending score, the face that a detection overlaps most decides: with an IoU of at least
    `iou_threshold` the first detection of a face is a hit; a second one of the same face, like one of no face, counts
    against the precision.

    Args:
        detections: per image [n, 5], xyxy and score; in any order.
        faces: per image [m, 4] xyxy in the same unit; all of them count.

    Raises:
        ValueError: the lists differ in length, or there is no face at all, so that recall is not defined.

    """
    if len(detections) != len(faces):
        raise ValueError(f"{len(detections)} images with detections, {len(faces)} with faces; expected as many")
    total = sum(len(image_faces) for image_faces in faces)
    if total == 0:
        raise ValueError("average precision is not defined without a single face")
    scores, hits = [], []
    for image_detections, image_faces in zip(detections, faces, strict=True):
        ordered = image_detections[best_first(image_detections[:, 4])]
        scores.append(ordered[:, 4])
        hits.append(_hits(ordered[:, :4], image_faces, iou_threshold))
    all_scores, all_hits = np.concatenate(scores), np.concatenate(hits)
    order = best_first(all_scores)
    all_scores, all_hits = all_scores[order], all_hits[order]
    # A threshold takes all detections of its score, so only the last of equal scores is a point of the curve.
    last_of_score = np.append(all_scores[1:] != all_scores[:-1], True)[: len(all_scores)]
    found = np.cumsum(all_hits)[last_of_score]
    made = (np.arange(len(all_hits)) + 1)[last_of_score]
    return found / total, found / made


def _hits(boxes_xyxy: FloatArray, faces_xyxy: FloatArray, iou_threshold: float) -> np.ndarray:
    """[n] bool for detections in descending score."""
    hits = np.zeros(len(boxes_xyxy), bool)
    if not len(faces_xyxy):
        return hits
    overlaps = iou_matrix(boxes_xyxy.astype(np.float64), faces_xyxy.astype(np.float64))
    face = overlaps.argmax(axis=1)
    candidates = np.flatnonzero(overlaps.max(axis=1) >= iou_threshold)
    _, first = np.unique(face[candidates], return_index=True)
    hits[candidates[first]] = True
    return hits


def evaluate(
    detector: Callable[[NDArray[np.uint8], float], FloatArray],
    records: Sequence[Record],
    score_threshold: float = 0.05,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[float, int]:
    """Average precision of a detector over annotated images, each at its own size.

    Args:
        detector: a `FaceDetector`, or what is called like one.
        progress: called with (images done, images in all).

    Returns:
        AP, and how many images could not be read, are under 16 px or do not fit their boxes; their faces count as
        missed. What the detector raises on any other image is not caught: a broken detector has no AP.

    Raises:
        DataError: the boxes of more than an image or two do not fit: the AP would be that of wrong labels.

    """
    detections, unusable, misfits = [], 0, list[str]()
    for done, record in enumerate(records, start=1):
        image = _usable_image(record, misfits)
        if too_many(len(misfits), len(records)):
            raise DataError(f"the boxes of {len(misfits)} of {len(records)} images do not fit; the last: {misfits[-1]}")
        if image is None:
            unusable += 1
            detections.append(np.zeros((0, 5), np.float32))
        else:
            detections.append(detector(image, score_threshold))
        if progress is not None:
            progress(done, len(records))
    return average_precision(detections, [record.boxes_xyxy_px for record in records]), unusable


def _usable_image(record: Record, misfits: list[str]) -> NDArray[np.uint8] | None:
    """The image, or None; what is wrong with its boxes goes into `misfits`."""
    try:
        image = read_fitting(record)
    except DataError as error:
        logger.warning("not used: %s (annotated at %s)", error, record.origin)
        if isinstance(error, MisfitError):
            misfits.append(f"{error} (annotated at {record.origin})")
        return None
    return image if min(image.shape[:2]) >= MIN_SIDE_PX else None
