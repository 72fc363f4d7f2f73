"""Average precision by the WIDER FACE protocol, equal to the official tool's.

Scores of all images are rescaled together to 0..1; in each image, by descending score, the face that a detection
overlaps most decides; 1000 thresholds give the precision-recall curve. AP is the area under its envelope.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.arrays import FloatArray
from lib.evaluation.curve import Curve, area_under_envelope
from lib.evaluation.ground_truth import GroundTruth
from lib.evaluation.matching import FASTEST, Kernels
from lib.evaluation.prediction_files import Predictions
from lib.tables import markdown_table

PROTOCOL = "WIDER FACE: IoU 0.5 with the +1 convention, scores rescaled over all images, 1000 thresholds"
MIN_IOU = 0.5
THRESHOLDS = 1 - np.arange(1, 1001) / 1000  # descending, the last one 0
HEIGHTS_PX = {  # at least the first, under the second
    "under_16": (-math.inf, 16.0),
    "16_to_32": (16.0, 32.0),
    "32_to_64": (32.0, 64.0),
    "64_and_over": (64.0, math.inf),
}


@dataclass(frozen=True)
class Evaluation:
    """What one result folder is worth.

    Attributes:
        subsets: a curve for each subset of the ground truth: easy, medium and hard, or all.
        by_height: a curve for each range of `HEIGHTS_PX`. Faces of other heights are ignored, as are faces that do not
            count in the last subset (hard, or all), which is the largest. A detection of no face at all counts
            against the precision of every range, whatever its size.
        images: how many images were scored.
        detections: how many detections they have.
        kernels: `Cython` or `NumPy`, whichever did the matching.

    """

    subsets: Mapping[str, Curve]
    by_height: Mapping[str, Curve]
    images: int
    detections: int
    kernels: str


def evaluate_wider(truth: GroundTruth, predictions: Predictions, kernels: Kernels = FASTEST) -> Evaluation:
    """Scores detections; their order within an image matters only among equal scores.

    Raises:
        ValueError: truth and predictions differ in the number of images.

    """
    if len(truth.starts) != len(predictions.starts):
        raise ValueError(f"{len(truth.starts) - 1} images with faces, {len(predictions.starts) - 1} with detections")
    image = np.repeat(np.arange(len(truth.names)), np.diff(predictions.starts))
    order = np.lexsort((-predictions.scores, image))  # stable: equal scores keep the order of the file
    # Searching finds how many of the ascending thresholds a score reaches.
    scores = rescaled(predictions.scores[order])
    levels = len(THRESHOLDS) - np.searchsorted(THRESHOLDS[::-1], scores, side="right")
    face, is_first = kernels.match(
        predictions.boxes_xyxy_px[order], predictions.starts, truth.faces_xyxy_px, truth.starts, MIN_IOU
    )

    def curve(counted: NDArray[np.bool_]) -> Curve:
        made, found = kernels.count(levels, face, is_first, counted, len(THRESHOLDS))
        faces = int(counted.sum())
        recall = found / max(faces, 1)
        precision = found / np.maximum(made, 1)
        return Curve(area_under_envelope(recall, precision) if faces else None, faces, recall, precision)

    heights_px = truth.faces_xyxy_px[:, 3] - truth.faces_xyxy_px[:, 1]
    largest = list(truth.counted.values())[-1]
    return Evaluation(
        {subset: curve(counted) for subset, counted in truth.counted.items()},
        {name: curve(largest & (heights_px >= low) & (heights_px < high)) for name, (low, high) in HEIGHTS_PX.items()},
        len(truth.names),
        len(predictions.scores),
        kernels.name,
    )


def rescaled(scores: FloatArray) -> FloatArray:
    """[p] of any scale -> [p] in 0..1 by the least and the greatest; equal scores all become 1."""
    if not scores.size:
        return scores
    least, greatest = scores.min(), scores.max()
    if least == greatest:
        return np.ones_like(scores)
    return (scores - least) / (greatest - least)


def as_json(evaluation: Evaluation, images_left_out: int = 0) -> dict[str, Any]:
    """The figures of an evaluation, not rounded: the AP of each subset under its own name at the top."""
    return {
        **{subset: curve.ap for subset, curve in evaluation.subsets.items()},
        "by_height_px": {name: curve.ap for name, curve in evaluation.by_height.items()},
        "faces": {name: curve.faces for name, curve in {**evaluation.subsets, **evaluation.by_height}.items()},
        "detections": evaluation.detections,
        "images": evaluation.images,
        "images_left_out": images_left_out,
        "protocol": PROTOCOL,
    }


def table(evaluation: Evaluation) -> str:
    """AP and recall of every subset and range of heights, as Markdown."""
    named = {
        **evaluation.subsets,
        **{f"height {name.replace('_', ' ')}": curve for name, curve in evaluation.by_height.items()},
    }
    rows = [
        [
            name,
            f"{curve.faces:,}",
            "no face" if curve.ap is None else f"{curve.ap:.10f}",
            "no face" if curve.ap is None else f"{curve.recall[-1]:.4f}",
        ]
        for name, curve in named.items()
    ]
    return markdown_table(["faces (heights in px)", "number", "AP", "recall"], rows)
