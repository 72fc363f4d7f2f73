"""What exported detectors cost and how far they agree with the Keras model that they were made from."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.arrays import FloatArray
from lib.data.annotations import Record
from lib.detection import FaceDetector
from lib.detection.detector import fit
from lib.detection.export import Written
from lib.detection.formats import OPENCV
from lib.detection.formats.opencv import OpenCVDetector
from lib.detection.protocols import Detector
from lib.evaluation.ap import evaluate
from lib.evaluation.latency import interleaved
from lib.geometry.boxes import iou_matrix

SCORE_THRESHOLD = 0.05
# When two detections are the same: IoU at least, difference of scores at most.
SAME = {"float32": (0.99, 1e-3), "float16": (0.99, 5e-3), "int8": (0.5, 0.2)}


def report(
    checkpoint: str | os.PathLike[str],
    written: Sequence[Written],
    size_px: tuple[int, int],
    images_rgb: Sequence[NDArray[np.uint8]],
    records: Sequence[Record] = (),
    rounds: int = 30,
) -> list[dict[str, Any]]:
    """A row, JSON-able, for the Keras model and for each of its exports.

    Args:
        checkpoint: the Keras model, a `.keras` file.
        size_px: height and width to which the images are fitted before any format sees them.
        images_rgb: uint8 [H, W, 3]; the first one is timed on.
        records: annotated images for AP, each at its own size, or that of the file; none: no AP.
        rounds: of the timing.

    Returns:
        `format`, `precision`, `file`, `bytes`, `ms` (image to boxes, one thread, the shortest of interleaved rounds),
        `ms_ratio` (to Keras), `largest_score_difference` (of the same face's scores), `detections` (of Keras),
        `changed` (detections of either that the other lacks by `SAME`), `ap`.

    """
    seen = [fit(image, size_px)[0] for image in images_rgb]
    detectors: dict[str, Detector] = {"": FaceDetector(checkpoint)}
    for one in written:
        if one.format == OPENCV:
            detectors[one.name] = OpenCVDetector(one.path)
        else:
            detectors[one.name] = FaceDetector(one.path, threads=1 if one.format in ("litert", "onnx") else None)
    times = interleaved(
        {name: partial(detector, seen[0], SCORE_THRESHOLD) for name, detector in detectors.items()}, rounds
    )
    original = [detectors[""](image, SCORE_THRESHOLD) for image in seen]
    rows = [_row("original", "float32", os.fspath(checkpoint), Path(checkpoint).stat().st_size)]
    rows += [_row(one.format, one.precision, one.path.name, one.size_bytes) for one in written]
    for row, (name, detector) in zip(rows, detectors.items(), strict=True):
        row["ms"] = times[name].best_ms
        row["ms_ratio"] = times[name].best_ms / times[""].best_ms
        row.update(_agreement(detector, seen, original, row["precision"]))
        row["ap"] = evaluate(detector, records, SCORE_THRESHOLD)[0] if records else None
    return rows


def agrees(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether all floating-point exports find what the Keras model finds."""
    return not any(row["changed"] for row in rows if row["precision"] != "int8")


def _row(name: str, precision: str, file: str, size_bytes: int) -> dict[str, Any]:
    return {"format": name, "precision": precision, "file": file, "bytes": size_bytes}


def _agreement(
    detector: Detector, images: Sequence[NDArray[np.uint8]], original: Sequence[FloatArray], precision: str
) -> dict[str, Any]:
    least_iou, most = SAME[precision]
    largest, changed = 0.0, 0
    for image, expected in zip(images, original, strict=True):
        found = detector(image, SCORE_THRESHOLD).astype(np.float64)
        overlap = iou_matrix(found[:, :4], expected[:, :4].astype(np.float64)) >= least_iou
        difference = np.abs(found[:, None, 4] - expected[None, :, 4])
        if overlap.any():
            nearest = np.where(overlap, difference, np.inf).min(axis=0)
            largest = max(largest, float(nearest[np.isfinite(nearest)].max()))
        same = overlap & (difference <= most)
        changed += int(np.count_nonzero(~same.any(axis=0)) + np.count_nonzero(~same.any(axis=1)))
    return {
        "largest_score_difference": largest,
        "detections": sum(map(len, original)),
        "changed": changed,
    }
