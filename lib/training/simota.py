"""Faces matched with predictions within the training step, and the loss that goes with it: how YuNet is trained.

A detector without anchors of its own has no boxes that faces could be compared with beforehand. SimOTA (YOLOX, arXiv
2107.08430, section 2.1) lets the present predictions compete: a face takes those cells near it whose box and score fit
it best, as many as the sum of the ten best overlaps.
"""

from collections.abc import Mapping
from typing import Any

from keras import ops

from lib.geometry.anchors import AnchorSpec
from lib.models.decoding import anchor_grid, decode, encode_points, scores
from lib.training.devices import sum_over_replicas
from lib.training.losses import smooth_l1

CENTRE_RADIUS = 2.5  # cells; those this near to a face's centre are candidates, as are those within its box
BEST_OVERLAPS = 10  # of these the sum says how many cells a face takes
OVERLAP_WEIGHT = 3.0  # of the overlap's term in the cost, to the score's
BOX_WEIGHT = 5.0  # of the loss of boxes, to that of scores
LANDMARK_WEIGHT = 0.1  # of that of landmarks
LANDMARK_BETA = 1 / 9  # up to this difference of offsets it is a square
_FAR = 1e5  # the cost of cells that are not both within the box and near its centre: taken if nothing else is left
_NEVER = 1e9
_TINY = 1e-7


class MatchingLoss:
    """The terms of a detector whose faces are matched in the step (libfacedetection.train, Wu et al. 2023).

    - scores: binary cross-entropy of the object's logit over all cells, 1 where a face is matched, and of the class's
      logit over the matched ones, with the overlap of box and face as its target;
    - boxes: 5 x EIoU (arXiv 2101.08158) over the matched cells;
    - landmarks, of detectors that find any: 0.1 x smooth L1 (beta 1/9) between offsets, all of a cell summed, over the
      matched cells whose face has landmarks; 0 where the labels have none;

    each summed and divided by the number of matched cells in the batch (landmarks: of those that have any), or 1. On
    several devices the batch is the whole one, and a device's terms are its share.

    Args:
        anchors: of the detector, see `lib.models.anchors_of`.

    Attributes:
        names: of the terms.

    """

    def __init__(self, anchors: AnchorSpec) -> None:
        self.anchors = anchors
        self.names = ("boxes_loss", "scores_loss", *(("landmarks_loss",) if anchors.landmarks else ()))

    def terms(self, images: Any, truth: Mapping[str, Any], predicted: Mapping[str, Any]) -> dict[str, Any]:
        """The terms by name, scalars.

        Args:
            images: [B, H, W, 3].
            truth: "boxes" [B, m, 5]: faces x1, y1, x2, y2 relative to the image, and 1, or zeros where there are fewer
                than m; "scores" [B, n]: -1 for cells of which nothing is known, 0 elsewhere; of a detector with k
                landmarks "landmarks" [B, m, 2 k + 1]: x, y of those of the same faces, relative, and 1, or zeros.
            predicted: "boxes" [B, n, 4], "scores" [B, n, 2] and "landmarks" [B, n, 2 k], as the network gives them.

        """
        shape = ops.shape(images)
        height, width = shape[1], shape[2]
        size = ops.cast(ops.stack([width, height, width, height]), "float32")
        grid = anchor_grid(self.anchors, height, width)
        boxes = decode(predicted["boxes"], grid, self.anchors.code) * size
        faces, real = truth["boxes"][..., :4] * size, truth["boxes"][..., 4]
        logits = predicted["scores"]
        known = ops.cast(truth["scores"] >= 0, "float32")
        score = scores(logits, self.anchors.scoring)
        chosen = ops.stop_gradient(matched(boxes, score, faces, real, grid * size) * known[..., None])

        positive = ops.sum(chosen, axis=-1)  # [B, n] of 0 and 1
        targets = ops.matmul(chosen, faces)
        overlap, eiou = _iou_and_eiou(boxes, targets)
        quality = ops.stop_gradient(overlap)
        count = ops.maximum(sum_over_replicas(ops.sum(positive)), 1.0)
        of_class = positive * _cross_entropy(logits[..., 0], quality)
        of_object = known * _cross_entropy(logits[..., 1], positive)
        found = {
            "boxes_loss": BOX_WEIGHT * ops.sum(positive * eiou) / count,
            "scores_loss": ops.sum(of_class + of_object) / count,
        }
        if self.anchors.landmarks:
            points = ops.matmul(chosen, truth["landmarks"])
            apart = smooth_l1(predicted["landmarks"] - encode_points(points[..., :-1], grid), LANDMARK_BETA)
            known_count = ops.maximum(sum_over_replicas(ops.sum(points[..., -1])), 1.0)
            found["landmarks_loss"] = LANDMARK_WEIGHT * ops.sum(points[..., -1] * apart) / known_count
        return found


def matched(boxes: Any, scores: Any, faces: Any, real: Any, cells: Any) -> Any:
    """Which cell is matched with which face: [B, n, m] of 0 and 1; a cell has one face at most.

    Args:
        boxes: [B, n, 4] x1, y1, x2, y2 in px, as predicted.
        scores: [B, n] 0..1, as predicted.
        faces: [B, m, 4] x1, y1, x2, y2 in px.
        real: [B, m]: 1 for a face, 0 for none.
        cells: [n, 4]: x, y of each cell's upper left corner, and its width and height, in px. A face asks for a cell's
            centre.

    """
    centres = cells[:, :2] + cells[:, 2:] / 2
    x, y = centres[None, :, 0, None], centres[None, :, 1, None]
    face = faces[:, None, :, :]  # [B, 1, m, 4]
    inside = (x > face[..., 0]) & (x < face[..., 2]) & (y > face[..., 1]) & (y < face[..., 3])
    reach = CENTRE_RADIUS * cells[None, :, 2, None]
    across, down = (face[..., 0] + face[..., 2]) / 2, (face[..., 1] + face[..., 3]) / 2
    near = (ops.abs(x - across) < reach) & (ops.abs(y - down) < reach)
    candidate = (inside | near) & (real[:, None, :] > 0)

    overlap = ops.where(candidate, _iou(boxes[:, :, None, :], face), 0.0)
    cost = -ops.log(overlap + _TINY) * OVERLAP_WEIGHT - ops.log(scores + _TINY)[..., None]
    cost = ops.where(inside & near, cost, cost + _FAR)
    cost = ops.where(candidate, cost, _NEVER)

    best = min(BEST_OVERLAPS, cells.shape[0] or BEST_OVERLAPS)
    by_face = ops.transpose(overlap, (0, 2, 1))
    wanted = ops.maximum(ops.floor(ops.sum(ops.top_k(by_face, best, sorted=False)[0], axis=-1)), 1.0)  # [B, m]
    lowest = -ops.top_k(-ops.transpose(cost, (0, 2, 1)), best)[0]  # [B, m, best], ascending
    rank = ops.arange(best, dtype="float32")
    last = ops.sum(ops.where(rank == wanted[..., None] - 1, lowest, 0.0), axis=-1)
    chosen = (cost <= last[:, None, :]) & candidate
    # A cell that several faces want goes to the one it costs least, and of equal costs to the first.
    cheapest = ops.argmin(ops.where(chosen, cost, 2 * _NEVER), axis=-1)
    mine = ops.one_hot(cheapest, faces.shape[1], dtype="float32")
    return mine * ops.cast(chosen, "float32")


def _iou(a: Any, b: Any) -> Any:
    """IoU [...] of boxes [..., 4], each with its partner."""
    sides = ops.minimum(a[..., 2:], b[..., 2:]) - ops.maximum(a[..., :2], b[..., :2])
    common = ops.prod(ops.maximum(sides, 0.0), axis=-1)
    union = ops.prod(a[..., 2:] - a[..., :2], axis=-1) + ops.prod(b[..., 2:] - b[..., :2], axis=-1) - common
    return common / ops.maximum(union, _TINY)


def _iou_and_eiou(boxes: Any, targets: Any) -> tuple[Any, Any]:
    """IoU [B, n], and EIoU's loss: 1 - IoU + the differences of centre, width and height over the hull's extent."""
    iou = _iou(boxes, targets)
    own, wanted = boxes[..., 2:] - boxes[..., :2], targets[..., 2:] - targets[..., :2]
    hull = ops.maximum(boxes[..., 2:], targets[..., 2:]) - ops.minimum(boxes[..., :2], targets[..., :2])
    hull = ops.square(ops.maximum(hull, _TINY**0.5))
    apart = ops.square(boxes[..., :2] + boxes[..., 2:] - targets[..., :2] - targets[..., 2:]) / 4
    centre = ops.sum(apart, axis=-1) / ops.sum(hull, axis=-1)
    return iou, 1 - iou + centre + ops.sum(ops.square(own - wanted) / hull, axis=-1)


def _cross_entropy(logits: Any, targets: Any) -> Any:
    """Of a Bernoulli by its logit and a probability."""
    return ops.softplus(logits) - targets * logits
