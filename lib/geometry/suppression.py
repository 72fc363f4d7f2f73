"""Which of many overlapping boxes stay: the best ones, greedy suppression, voting."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lib.arrays import BoolArray, FloatArray, IntArray
from lib.geometry.boxes import area

try:
    from lib.geometry.suppression_compiled import nms_in_strips
except ImportError:  # not built, or of an earlier version: an equal NumPy path runs
    nms_in_strips = None  # type: ignore[assignment]

COMPILED = nms_in_strips is not None

_STRIPS = 64  # columns, and rows, that tell which boxes can overlap
_BLOCK = 256  # of 32 to 512 the fastest for 5000 boxes: its square of comparisons stays in cache


def best_first(scores: FloatArray) -> IntArray:
    """Indices [n] by descending score; of equal scores the earlier one first."""
    order = np.argsort(-scores)  # a stable sort takes four times as long
    ordered = scores.take(order)
    same = ordered[1:] == ordered[:-1]
    if same.any():
        tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
        order[tied] = order[tied][np.lexsort((order[tied], -ordered[tied]))]
    return order


def best_passing(scores: FloatArray, threshold: float, limit: int) -> IntArray:
    """Ascending indices of the `limit` best of [n] scores of at least `threshold`; of equal scores the earlier ones."""
    passing = np.flatnonzero(scores >= threshold)
    surplus = len(passing) - limit
    if surplus <= 0:
        return passing
    kept_scores = scores[passing]
    cut = np.partition(kept_scores, surplus)[surplus]
    chosen = kept_scores > cut
    chosen[np.flatnonzero(kept_scores == cut)[: limit - np.count_nonzero(chosen)]] = True
    return passing[chosen]


def nms(boxes_xyxy: FloatArray, scores: FloatArray, iou_threshold: float, max_output: int) -> IntArray:
    """Greedy non-maximum suppression.

    Args:
        boxes_xyxy: [n, 4], any unit.
        scores: [n], higher is better; of equal scores the earlier box comes first.
        iou_threshold: a box goes when it overlaps a better kept one by more than this.
        max_output: at most so many are kept.

    Returns:
        Indices of the kept boxes, best first.

    """
    order = best_first(scores)
    boxes = boxes_xyxy.take(order, axis=0)
    span = _span(boxes) if iou_threshold >= 0 else None
    if nms_in_strips is None or span is None:
        return order[nms_numpy(boxes, iou_threshold, max_output)]
    kept = np.empty(min(max_output, len(order)), np.int64)
    strips = np.zeros((2, _STRIPS, len(kept) // 64 + 1), np.uint64)
    low, extent = span
    factor = (_STRIPS / np.maximum(extent, _STRIPS * np.finfo(boxes.dtype).tiny)).astype(boxes.dtype)
    count = nms_in_strips(np.ascontiguousarray(boxes), area(boxes), iou_threshold, kept, strips, low, factor)
    return order[kept[:count]]


def _span(boxes_xyxy: FloatArray) -> tuple[FloatArray, FloatArray] | None:
    """The least x and y of boxes, and how far they reach from there.

    None where boxes that do not touch might suppress each other, as numbers that are none, huge ones and exchanged
    corners can, and where the compiled loop does not take them.
    """
    if not len(boxes_xyxy) or boxes_xyxy.dtype not in (np.float32, np.float64):
        return None
    x1, y1, x2, y2 = np.ascontiguousarray(boxes_xyxy.T)  # a tenth of the time that columns take
    low = np.array([x1.min(), y1.min()])
    with np.errstate(over="ignore", invalid="ignore"):
        extent = np.array([x2.max(), y2.max()]) - low
        usual = np.isfinite(extent).all() and extent.prod() < np.finfo(boxes_xyxy.dtype).max / 4
    return (low, extent) if usual and (x2 >= x1).all() and (y2 >= y1).all() else None


def nms_numpy(boxes_xyxy: FloatArray, iou_threshold: float, max_output: int) -> IntArray:
    """`nms` of boxes that are in order already, best first; the compiled extension gives equal results."""
    x1, y1, x2, y2 = np.ascontiguousarray(boxes_xyxy.T)
    areas = area(boxes_xyxy)

    def suppresses(a: IntArray, b: IntArray) -> BoolArray:
        intersection = np.maximum(np.minimum.outer(x2[a], x2[b]) - np.maximum.outer(x1[a], x1[b]), 0)
        intersection *= np.maximum(np.minimum.outer(y2[a], y2[b]) - np.maximum.outer(y1[a], y1[b]), 0)
        # intersection <= threshold * union, without dividing: two empty boxes do not suppress each other.
        return ~(intersection <= iou_threshold * (np.add.outer(areas[a], areas[b]) - intersection))

    leaders, _ = _greedy_groups(len(boxes_xyxy), suppresses, max_output, stop_when_full=True)
    return leaders


def in_whole_px(boxes_xyxy_px: FloatArray) -> FloatArray:
    """Boxes [n, 4] as OpenCV's face detector compares them: corner, width and height each cut to whole pixels.

    Of faces of a few pixels it keeps some that `nms` would drop with the boxes as they are.
    """
    corners = np.trunc(boxes_xyxy_px[:, :2])
    sides = np.trunc(boxes_xyxy_px[:, 2:] - boxes_xyxy_px[:, :2])
    return np.concatenate([corners, corners + sides], axis=1)


def vote(
    detections: FloatArray, iou_threshold: float = 0.3, max_output: int = 750, keep_lone: bool = True
) -> NDArray[np.float32]:
    """Box voting: merges the detections of several passes over one image (as S3FD and later do on WIDER FACE).

    By descending score, the best box left takes all boxes left that overlap it by at least `iou_threshold`, itself
    included. They become one box: the mean of their corners weighted by their scores, with the best score. Unlike
    elsewhere here, a box from x1 to x2 counts as x2 - x1 + 1 wide, as in the published code.

    Args:
        detections: [n, 5] x1, y1, x2, y2 in pixels and a positive score; of equal scores the earlier comes first.
        iou_threshold: 0..1, inclusive.
        max_output: at most so many boxes, the best ones.
        keep_lone: whether a box that no other one overlaps stays (EResFD) or goes (B-FPGM, Pruned DSFD).

    Returns:
        float32 [m, 5], best first.

    """
    ordered = detections[best_first(detections[:, 4])].astype(np.float64)
    x1, y1, x2, y2, scores = np.ascontiguousarray(ordered.T)
    x2_end, y2_end = x2 + 1, y2 + 1
    areas = (x2_end - x1) * (y2_end - y1)

    def joins(a: IntArray, b: IntArray) -> BoolArray:
        intersection = np.maximum(np.minimum.outer(x2_end[a], x2_end[b]) - np.maximum.outer(x1[a], x1[b]), 0)
        intersection *= np.maximum(np.minimum.outer(y2_end[a], y2_end[b]) - np.maximum.outer(y1[a], y1[b]), 0)
        return intersection / (np.add.outer(areas[a], areas[b]) - intersection) >= iou_threshold

    # A lone box takes no place among the `max_output` where it is dropped.
    limit = max_output if keep_lone else len(ordered)
    leaders, group = _greedy_groups(len(ordered), joins, limit)
    member = group >= 0
    group, scores, corners = group[member], scores[member], ordered[member, :4]
    weights = np.bincount(group, scores, len(leaders))
    voted = np.empty((len(leaders), 5), np.float32)
    for column in range(4):
        voted[:, column] = np.bincount(group, scores * corners[:, column], len(leaders)) / weights
    lone = np.bincount(group, minlength=len(leaders)) == 1
    voted[lone, :4] = ordered[leaders[lone], :4]
    voted[:, 4] = ordered[leaders, 4]
    return voted if keep_lone else voted[~lone][:max_output]


def _greedy_groups(
    count: int,
    related: Callable[[IntArray, IntArray], BoolArray],
    max_groups: int,
    stop_when_full: bool = False,
) -> tuple[IntArray, IntArray]:
    """Items 0..count - 1 in turn join the first leader that they are related to, or else lead a group of their own.

    Args:
        related: symmetric; indices [a] and [b] -> [a, b] bool.
        max_groups: further leaders, and those who would follow them, stay without a group.
        stop_when_full: whether to leave the items after the last leader alone: for when only leaders matter.

    Returns:
        The leaders' items, ascending, and for every item the number of its group, -1 without one.

    """
    leaders = np.zeros(0, np.int64)
    group = np.full(count, -1, np.int64)
    # In blocks: against the leaders so far in one go, and item by item only among the rest of the block.
    for start in range(0, count, _BLOCK):
        block = np.arange(start, min(start + _BLOCK, count))
        if len(leaders):
            block = block[~_join(group, block, related(leaders, block), 0)]
        room = max_groups - len(leaders)
        if room > 0 and len(block):
            matrix = related(block, block)
            np.fill_diagonal(matrix, True)
            fresh = _leaders(matrix)[:room]
            _join(group, block, matrix[fresh], len(leaders))
            leaders = np.concatenate([leaders, block[fresh]])
        if stop_when_full and len(leaders) >= max_groups:
            break
    return leaders, group


def _join(group: IntArray, items: IntArray, matrix: BoolArray, offset: int) -> BoolArray:
    """Writes into `group` the first leader (row of `matrix`) of each item (column); returns which items have one."""
    first = matrix.argmax(axis=0)
    joined = matrix[first, np.arange(len(items))]
    group[items[joined]] = first[joined] + offset
    return joined


def _leaders(matrix: BoolArray) -> list[int]:
    """The leaders among the items of a symmetric [n, n] relation; rows as whole numbers, one bit an item."""
    rows = np.packbits(matrix, axis=1, bitorder="little")
    led, leaders = 0, []
    for item, row in enumerate(rows):
        if not led >> item & 1:
            leaders.append(item)
            led |= int.from_bytes(row.tobytes(), "little")
    return leaders
