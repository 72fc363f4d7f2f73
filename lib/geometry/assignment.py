"""Which face each anchor has to find. Only anchors near a face are looked at, so the cost grows with the faces.

Boxes are relative to the network's input, as in `lib.geometry.anchors`. What comes out is, bit for bit, what a full
matrix of anchors x faces would give.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from lib.arrays import BoolArray, FloatArray, IntArray
from lib.geometry.anchors import AnchorSpec, anchor_grid
from lib.geometry.boxes import area, cxcywh_to_xyxy

_SLACK = 1.001  # far above float32's rounding: bounds on the overlap stay bounds


@dataclass(frozen=True)
class Overlaps:
    """Pairs of a face and an anchor.

    Attributes:
        face, anchor: [p] indices; the pairs of one anchor come in the order of its faces.
        iou: float32 [p].

    """

    face: IntArray
    anchor: IntArray
    iou: FloatArray

    def best_per_anchor(self, anchors: int) -> tuple[IntArray, FloatArray]:
        """Face [anchors] and IoU [anchors]: the best of every anchor; of equals the first face; without a pair 0, 0."""
        iou = np.zeros(anchors, np.float32)
        np.maximum.at(iou, self.anchor, self.iou)
        face = np.zeros(anchors, np.int64)
        best = np.flatnonzero(self.iou == iou[self.anchor])[::-1]
        face[self.anchor[best]] = self.face[best]
        return face, iou

    def best_per_face(self, faces: int) -> tuple[IntArray, FloatArray]:
        """Anchor [faces] and IoU [faces]: the best of every face; of equals the first anchor; without a pair 0, 0."""
        iou = np.zeros(faces, np.float32)
        np.maximum.at(iou, self.face, self.iou)
        anchor = np.full(faces, np.iinfo(np.int64).max)
        best = np.flatnonzero(self.iou == iou[self.face])
        np.minimum.at(anchor, self.face[best], self.anchor[best])
        return np.where(iou > 0, anchor, 0), iou


def overlaps(faces_xyxy: FloatArray, spec: AnchorSpec, height_px: int, width_px: int, least_iou: float) -> Overlaps:
    """All pairs with an IoU of at least `least_iou`, and every face's best pair, among some of the rest.

    Args:
        faces_xyxy: float32 [m, 4] relative; m may be 0.
        spec, height_px, width_px: the anchors and the input, as for `anchor_grid`.

    """
    lattices = _lattices(spec, height_px, width_px)
    areas, anchor_areas = area(faces_xyxy), lattices.area[:, None]
    # Two boxes overlap at most as far as their areas agree: most levels are out of question for a face.
    limits = _SLACK * np.minimum(areas, anchor_areas) / np.maximum(areas, anchor_areas)
    near = limits >= least_iou
    found = _pairs(faces_xyxy, near, lattices)
    _, best = found.best_per_face(len(faces_xyxy))
    # Where a level left out might still hold a face's best anchor, all levels are looked at.
    unsure = best <= np.max(limits, axis=0, where=~near, initial=0)
    return _pairs(faces_xyxy, near | unsure, lattices) if unsure.any() else found


def assign(
    faces_xyxy: FloatArray,
    spec: AnchorSpec,
    height_px: int,
    width_px: int,
    positive_iou: float = 0.35,
    second_stage_iou: float = 0.1,
) -> IntArray:
    """EResFD's two-stage matching (arXiv 2204.01209, also S3FD, arXiv 1708.05237, section 3.2).

    Stage 1: an anchor takes the face that it overlaps most if their IoU is at least `positive_iou`; every face also
    gets its best anchor, whatever the overlap. Stage 2: of the anchors still free whose best IoU lies between
    `second_stage_iou` and `positive_iou`, the N best are added, N = (faces whose best IoU is at least `positive_iou` +
    faces whose best IoU is at least 0.5) // 2.

    Args:
        faces_xyxy: float32 [m, 4] relative; m may be 0.
        spec, height_px, width_px: the anchors and the input, as for `anchor_grid`.

    Returns:
        [n] index of the face of each anchor, -1 for background.

    """
    anchors = len(anchor_grid(spec, height_px, width_px))
    matched = np.full(anchors, -1, np.int64)
    if not len(faces_xyxy):
        return matched
    pairs = overlaps(faces_xyxy, spec, height_px, width_px, min(positive_iou, second_stage_iou))
    face_of_anchor, iou_of_anchor = pairs.best_per_anchor(anchors)
    anchor_of_face, iou_of_face = pairs.best_per_face(len(faces_xyxy))

    positive = iou_of_anchor >= positive_iou
    matched[positive] = face_of_anchor[positive]
    matched[anchor_of_face] = np.arange(len(faces_xyxy))  # of two faces with the same best anchor the later one wins

    wanted = (int((iou_of_face >= positive_iou).sum()) + int((iou_of_face >= 0.5).sum())) // 2
    candidates = np.flatnonzero((matched < 0) & (iou_of_anchor > second_stage_iou) & (iou_of_anchor < positive_iou))
    chosen = candidates[np.argsort(-iou_of_anchor[candidates], kind="stable")[:wanted]]
    matched[chosen] = face_of_anchor[chosen]
    return matched


@dataclass(frozen=True)
class _Axis:
    """The columns (or rows) of k lattices, one lattice after another.

    Attributes:
        low, high: where each column begins and ends, ascending within a lattice.
        starts: [k + 1]; lattice i has the columns starts[i]:starts[i + 1].

    """

    low: FloatArray
    high: FloatArray
    starts: IntArray

    @classmethod
    def of(cls, intervals: list[FloatArray]) -> "_Axis":
        """From one array [2, columns] a lattice."""
        low, high = np.concatenate(intervals, axis=1)
        return cls(low, high, np.cumsum([0, *(part.shape[1] for part in intervals)]))

    def touched(self, low: FloatArray, high: FloatArray) -> tuple[IntArray, IntArray]:
        """First and last + 1, [k, m] each, of the columns that each of m intervals overlaps."""
        parts = [slice(*part) for part in pairwise(self.starts)]
        first = np.stack([np.searchsorted(self.high[part], low, side="right") for part in parts])
        end = np.stack([np.searchsorted(self.low[part], high, side="left") for part in parts])
        return first + self.starts[:-1, None], end + self.starts[:-1, None]


@dataclass(frozen=True)
class _Lattices:
    """The anchors as k lattices, one for each level and shape of anchor.

    Attributes:
        columns, rows: their x1 and x2, y1 and y2.
        kinds: anchors a cell.
        base, row_step: [k]; the anchor at entry r of `rows` and c of `columns` is base + r * row_step + c * kinds.
        area: [k] of one anchor; within a lattice they differ by rounding only.

    """

    columns: _Axis
    rows: _Axis
    kinds: int
    base: IntArray
    row_step: IntArray
    area: FloatArray


@lru_cache(maxsize=32)
def _lattices(spec: AnchorSpec, height_px: int, width_px: int) -> _Lattices:
    corners = cxcywh_to_xyxy(anchor_grid(spec, height_px, width_px))
    shapes = spec.grid_shapes(height_px, width_px)
    kinds = len(corners) // sum(rows * columns for rows, columns in shapes)
    x_intervals, y_intervals, firsts, row_steps, start = [], [], [], [], 0
    for rows, columns in shapes:
        level = corners[start : start + rows * columns * kinds].reshape(rows, columns, kinds, 4)
        for kind in range(kinds):
            x_intervals.append(level[0, :, kind, 0::2].T)
            y_intervals.append(level[:, 0, kind, 1::2].T)
            firsts.append(start + kind)
            row_steps.append(columns * kinds)
        start += rows * columns * kinds
    columns_axis, rows_axis = _Axis.of(x_intervals), _Axis.of(y_intervals)
    first, row_step = np.array(firsts), np.array(row_steps)
    base = first - rows_axis.starts[:-1] * row_step - columns_axis.starts[:-1] * kinds
    return _Lattices(columns_axis, rows_axis, kinds, base, row_step, area(corners[first]))


def _pairs(faces_xyxy: FloatArray, wanted: BoolArray, lattices: _Lattices) -> Overlaps:
    """The pairs that touch, of the lattices and faces that `wanted` [k, m] names."""
    x1, y1, x2, y2 = faces_xyxy.T
    left, right = lattices.columns.touched(x1, x2)
    top, bottom = lattices.rows.touched(y1, y2)
    lattice, face = np.nonzero(wanted & (right > left) & (bottom > top))
    # The cells of every rectangle of columns and rows, one rectangle after another.
    columns = (right - left)[lattice, face]
    counts = columns * (bottom - top)[lattice, face]
    group = np.repeat(np.arange(len(counts)), counts)
    cell = np.arange(len(group)) - (np.cumsum(counts) - counts)[group]
    row, column = np.divmod(cell, columns[group])
    row += top[lattice, face][group]
    column += left[lattice, face][group]
    lattice, face = lattice[group], face[group]

    # The same operations in the same order as lib.geometry.boxes.iou_matrix.
    ax1, ax2 = lattices.columns.low[column], lattices.columns.high[column]
    ay1, ay2 = lattices.rows.low[row], lattices.rows.high[row]
    width = np.minimum(x2[face], ax2) - np.maximum(x1[face], ax1)
    height = np.minimum(y2[face], ay2) - np.maximum(y1[face], ay1)
    intersection = np.maximum(width, 0) * np.maximum(height, 0)
    union = area(faces_xyxy)[face] + (ax2 - ax1) * (ay2 - ay1) - intersection
    iou = intersection / np.maximum(union, np.finfo(intersection.dtype).tiny)
    anchor = lattices.base[lattice] + row * lattices.row_step[lattice] + column * lattices.kinds
    return Overlaps(face, anchor.astype(np.int64), iou)
