"""Which detection finds which face, and the counts that follow: compiled where the extension is built, else NumPy.

Both do the same arithmetic in the same order and give equal results (tests/evaluation/test_matching.py). The extension
is `matching_compiled.pyx`, built by `cd tools/ap_eval && python setup.py build_ext --inplace`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lib.arrays import FloatArray, IntArray

try:
    from lib.evaluation import matching_compiled
except ImportError:
    matching_compiled = None  # type: ignore[assignment]

PAIRS_AT_ONCE = 1 << 16  # so many overlaps of float64 stay in cache

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Kernels:
    """The two inner loops of the evaluation.

    Attributes:
        name: for tables, `Cython` or `NumPy`.
        match: see `match_numpy`.
        count: see `count_numpy`.

    """

    name: str
    match: Callable[[FloatArray, IntArray, FloatArray, IntArray, float], tuple[IntArray, BoolArray]]
    count: Callable[[IntArray, IntArray, BoolArray, BoolArray, int], tuple[IntArray, IntArray]]


def match_numpy(
    boxes_xyxy_px: FloatArray, box_starts: IntArray, faces_xyxy_px: FloatArray, face_starts: IntArray, min_iou: float
) -> tuple[IntArray, BoolArray]:
    """Finds the face that each box overlaps most.

    IoU is that of the WIDER FACE tools: a box from x1 to x2 is x2 - x1 + 1 wide.

    Args:
        boxes_xyxy_px: float64 [p, 4], image after image.
        box_starts: int64 [n + 1]; image i has the boxes box_starts[i]:box_starts[i + 1].
        faces_xyxy_px: float64 [m, 4], image after image.
        face_starts: int64 [n + 1], as for the boxes.
        min_iou: over 0; a box with a smaller IoU has no face.

    Returns:
        face: int64 [p], the index of each box's face (of equal overlaps the first), or -1.
        is_first: bool [p], whether the box is the first one with its face; false without a face.

    """
    face = np.full(len(boxes_xyxy_px), -1, np.int64)
    box_areas, face_areas = _areas(boxes_xyxy_px), _areas(faces_xyxy_px)
    box_x1, box_y1, box_x2, box_y2 = (boxes_xyxy_px[:, None, side] for side in range(4))
    face_x1, face_y1, face_x2, face_y2 = (faces_xyxy_px[None, :, side] for side in range(4))
    for image, (first_face, end_face) in enumerate(
        zip(face_starts[:-1].tolist(), face_starts[1:].tolist(), strict=True)
    ):
        if first_face == end_face:
            continue
        step = max(1, PAIRS_AT_ONCE // (end_face - first_face))
        end = int(box_starts[image + 1])
        f = slice(first_face, end_face)
        for start in range(int(box_starts[image]), end, step):
            b = slice(start, min(start + step, end))
            width = np.minimum(box_x2[b], face_x2[:, f]) - np.maximum(box_x1[b], face_x1[:, f]) + 1
            height = np.minimum(box_y2[b], face_y2[:, f]) - np.maximum(box_y1[b], face_y1[:, f]) + 1
            common = np.maximum(width, 0) * np.maximum(height, 0)
            union = box_areas[b, None] + face_areas[None, f] - common
            # Without a common pixel the union may be anything, for boxes of negative size.
            overlaps = np.divide(common, union, out=np.zeros_like(common), where=common > 0)
            best = overlaps.argmax(axis=1)
            enough = overlaps[np.arange(len(best)), best] >= min_iou
            face[b] = np.where(enough, best + first_face, -1)
    is_first = np.zeros(len(face), np.bool_)
    is_first[np.unique(face, return_index=True)[1]] = True
    return face, is_first & (face >= 0)


def count_numpy(
    levels: IntArray, face: IntArray, is_first: BoolArray, counted: BoolArray, thresholds: int
) -> tuple[IntArray, IntArray]:
    """Counts, for every threshold, the boxes that reach it and the faces found by them.

    Args:
        levels: int64 [p], the index of the first threshold, in descending order, that each box reaches.
        face: int64 [p], as `match_numpy` gives it.
        is_first: bool [p], likewise.
        counted: bool [m], the faces that count; boxes of the others are dropped.
        thresholds: how many thresholds there are.

    Returns:
        made: int64 [thresholds], boxes without a face or with one that counts.
        found: int64 [thresholds], faces that count and are found.

    """
    with_counted = np.zeros(len(face), np.bool_)
    with_face = np.flatnonzero(face >= 0)
    with_counted[with_face] = counted[face[with_face]]
    made = np.bincount(levels[with_counted | (face < 0)], minlength=thresholds)
    found = np.bincount(levels[with_counted & is_first], minlength=thresholds)
    return np.cumsum(made), np.cumsum(found)


def _areas(boxes_xyxy_px: FloatArray) -> FloatArray:
    x1, y1, x2, y2 = boxes_xyxy_px.T
    return (x2 - x1 + 1) * (y2 - y1 + 1)


def _match_compiled(
    boxes_xyxy_px: FloatArray, box_starts: IntArray, faces_xyxy_px: FloatArray, face_starts: IntArray, min_iou: float
) -> tuple[IntArray, BoolArray]:
    face = np.empty(len(boxes_xyxy_px), np.int64)
    is_first = np.zeros(len(boxes_xyxy_px), np.bool_)
    matching_compiled.match(
        np.ascontiguousarray(boxes_xyxy_px, np.float64),
        np.ascontiguousarray(box_starts, np.int64),
        np.ascontiguousarray(faces_xyxy_px, np.float64),
        np.ascontiguousarray(face_starts, np.int64),
        min_iou,
        np.zeros(len(faces_xyxy_px), np.uint8),
        face,
        is_first.view(np.uint8),
    )
    return face, is_first


def _count_compiled(
    levels: IntArray, face: IntArray, is_first: BoolArray, counted: BoolArray, thresholds: int
) -> tuple[IntArray, IntArray]:
    made, found = np.zeros(thresholds, np.int64), np.zeros(thresholds, np.int64)
    matching_compiled.count(
        np.ascontiguousarray(levels, np.int64),
        np.ascontiguousarray(face, np.int64),
        np.ascontiguousarray(is_first).view(np.uint8),
        np.ascontiguousarray(counted).view(np.uint8),
        made,
        found,
    )
    return made, found


NUMPY = Kernels("NumPy", match_numpy, count_numpy)
COMPILED = None if matching_compiled is None else Kernels("Cython", _match_compiled, _count_compiled)
FASTEST = COMPILED or NUMPY
