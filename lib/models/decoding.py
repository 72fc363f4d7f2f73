"""From a network's outputs to boxes and scores, in `keras.ops`: for graphs that are written, and in training.

`lib.geometry` does the same in NumPy; tests hold the two equal.
"""

from typing import Any

from keras import ops

from lib.geometry.anchors import CORNER_SCALE, MAX_LOG_SIZE, AnchorSpec, Code, Scoring, variances_of


def margins(logits: Any, scoring: Scoring) -> Any:
    """`lib.geometry.scores.margins`: [..., 2] -> [...], what orders the anchors."""
    if scoring == "softmax":
        return logits[..., 1] - logits[..., 0]
    return ops.mean(ops.log_sigmoid(logits), axis=-1)


def probabilities(margins: Any, scoring: Scoring) -> Any:
    """`lib.geometry.scores.probabilities`: scores 0..1."""
    return ops.sigmoid(margins) if scoring == "softmax" else ops.exp(margins)


def scores(logits: Any, scoring: Scoring) -> Any:
    """Both in one: [..., 2] -> scores [...]."""
    return probabilities(margins(logits, scoring), scoring)


def anchor_grid(spec: AnchorSpec, height_px: Any, width_px: Any) -> Any:
    """`lib.geometry.anchors.anchor_grid` for a size, int32, known only when the graph runs: [n, 4] cxcywh, relative."""
    rows, columns = _rounded_up(height_px, spec.strides[0]), _rounded_up(width_px, spec.strides[0])
    height, width = ops.cast(height_px, "float32"), ops.cast(width_px, "float32")
    levels = []
    for stride, size in zip(spec.strides, spec.sizes, strict=True):
        x, y = ops.meshgrid(
            (ops.cast(ops.arange(columns), "float32") + spec.place) * stride / width,
            (ops.cast(ops.arange(rows), "float32") + spec.place) * stride / height,
        )
        sizes = [(size * scale / width, size * scale * spec.ratio / height) for scale in spec.scales]
        level = [ops.stack([x, y, ops.ones_like(x) * w, ops.ones_like(x) * h], axis=-1) for w, h in sizes]
        levels.append(ops.reshape(ops.stack(level, axis=2), (-1, 4)))
        rows, columns = _rounded_up(rows, 2), _rounded_up(columns, 2)
    return ops.concatenate(levels, axis=0)


def decode(offsets: Any, anchors_cxcywh: Any, code: Code) -> Any:
    """`lib.geometry.anchors.decode`: [B, n, 4] each, to x1, y1, x2, y2."""
    if code == "corners":
        half = anchors_cxcywh[..., 2:] / 2
        first = anchors_cxcywh[..., :2] - half + offsets[..., :2] / CORNER_SCALE * anchors_cxcywh[..., 2:]
        last = anchors_cxcywh[..., :2] + half + offsets[..., 2:] / CORNER_SCALE * anchors_cxcywh[..., 2:]
        return ops.concatenate([first, ops.maximum(first, last)], axis=-1)
    of_centre, of_size = variances_of(code)
    centre = anchors_cxcywh[..., :2] + offsets[..., :2] * of_centre * anchors_cxcywh[..., 2:]
    half = anchors_cxcywh[..., 2:] * ops.exp(ops.minimum(offsets[..., 2:] * of_size, MAX_LOG_SIZE)) / 2
    return ops.concatenate([centre - half, centre + half], axis=-1)


def decode_points(offsets: Any, anchors_cxcywh: Any) -> Any:
    """`lib.geometry.anchors.decode_points`, but flat: [B, n, 2 k] to x, y of each point."""
    points = offsets.shape[-1] // 2
    return ops.tile(anchors_cxcywh[..., :2], points) + offsets * ops.tile(anchors_cxcywh[..., 2:], points)


def encode_points(points: Any, anchors_cxcywh: Any) -> Any:
    """The inverse: `lib.geometry.anchors.encode_points`, but of flat points [B, n, 2 k] x, y."""
    count = points.shape[-1] // 2
    return (points - ops.tile(anchors_cxcywh[..., :2], count)) / ops.tile(anchors_cxcywh[..., 2:], count)


def _rounded_up(size: Any, step: int) -> Any:
    """The quotient rounded up. Not as -(-size // step): converters divide negative numbers by truncation."""
    return (size + step - 1) // step
