"""Pruned DSFD's matching: faces with few anchors are compensated. No loop over anchors or faces."""

from dataclasses import dataclass

import numpy as np

from lib.arrays import FloatArray, IntArray
from lib.geometry.anchors import AnchorSpec, anchor_grid
from lib.geometry.assignment import overlaps

BACKGROUND = -1
IGNORED = -2  # neither a face nor background


@dataclass(frozen=True)
class Compensation:
    """How faces with few anchors are compensated; the defaults are the pruned DSFD's.

    Attributes:
        negative_iou: an anchor is background if it overlaps no face by this much.
        average_matches: faces with fewer anchors are given more, up to so many; 0: none.
        super_match: up to the mean number of anchors of the faces that have any, if that is more.

    """

    negative_iou: float = 0.35
    average_matches: int = 20
    super_match: bool = True


def match_compensated(
    faces_xyxy: FloatArray,
    spec: AnchorSpec,
    height_px: int,
    width_px: int,
    positive_iou: float = 0.35,
    compensation: Compensation | None = None,
) -> IntArray:
    """Pruned DSFD's matching (scale compensation as in S3FD, arXiv 1708.05237, section 3.2).

    An anchor takes the face that it overlaps most if their IoU is at least `positive_iou`; every face also gets its
    best anchor, whatever the overlap. Anchors whose best IoU lies between the two thresholds are neither face nor
    background and first serve to compensate: a face with fewer than N anchors gets the best of those that overlap no
    other face more, until it has N. With equal thresholds there are no such anchors.

    Args:
        faces_xyxy: float32 [m, 4] relative; m may be 0.
        spec, height_px, width_px: the anchors and the input, as for `anchor_grid`.
        compensation: the rest of the settings; None: the defaults.

    Returns:
        [n] index of the face of each anchor, `BACKGROUND` or `IGNORED`.

    """
    compensation = compensation or Compensation()
    anchors = len(anchor_grid(spec, height_px, width_px))
    matched = np.full(anchors, BACKGROUND, np.int64)
    if not len(faces_xyxy):
        return matched
    pairs = overlaps(faces_xyxy, spec, height_px, width_px, min(positive_iou, compensation.negative_iou))
    face_of_anchor, iou_of_anchor = pairs.best_per_anchor(anchors)
    anchor_of_face, _ = pairs.best_per_face(len(faces_xyxy))
    positive = iou_of_anchor >= positive_iou
    matched[(iou_of_anchor >= compensation.negative_iou) & ~positive] = IGNORED
    matched[positive] = face_of_anchor[positive]
    matched[anchor_of_face] = np.arange(len(faces_xyxy))  # of two faces with the same best anchor the later one wins

    counts = np.bincount(matched[matched >= 0], minlength=len(faces_xyxy))
    wanted = compensation.average_matches
    if compensation.super_match:
        wanted = max(wanted, int(counts.sum() / np.count_nonzero(counts)))
    candidates = np.flatnonzero(matched == IGNORED)
    candidates = candidates[np.lexsort((-iou_of_anchor[candidates], face_of_anchor[candidates]))]  # by face, best first
    faces = face_of_anchor[candidates]
    rank = np.arange(len(faces)) - np.searchsorted(faces, faces)
    chosen = candidates[rank < wanted - counts[faces]]
    matched[chosen] = face_of_anchor[chosen]
    return matched
