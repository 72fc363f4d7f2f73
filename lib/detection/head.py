"""From a network's outputs to boxes, in `keras.ops`: the one place where a detector is cut for export.

`lib.detection.candidates` does the same in NumPy for the few boxes that matter; tests hold the two equal.
"""

from typing import Any

import keras
from keras import ops

from lib.errors import ModelError
from lib.geometry.anchors import CORNER_SCALE, MAX_LOG_SIZE, VARIANCES, AnchorSpec, Code
from lib.models import anchors_of, inference_model
from lib.models.folding import fold_batch_norms

IMAGE = "image"  # the input's name in every format


def exportable(model: keras.Model, size_px: tuple[int, int] | None, batch: int | None = None) -> keras.Model:
    """What is written of a detector: the part that detects, batch normalisation folded away.

    Args:
        size_px: height and width of its images; None: any.
        batch: how many images at once; None: any number.

    Returns:
        Model from `image`, float32 [B, H, W, 3], RGB 0..255, to `boxes` [B, n, 4], the network's offsets, and `scores`
        [B, n], the faces' probabilities 0..1.

    Raises:
        ModelError: the model is no detector, or Keras runs on another backend than TensorFlow, whose converters write
            the formats.

    """
    if anchors_of(model).scoring != "softmax":
        raise ModelError(f"model {model.name!r}: its scores and landmarks can be written as .keras and for OpenCV only")
    if keras.backend.backend() != "tensorflow":
        raise ModelError(f"Keras runs on {keras.backend.backend()}; exporting needs KERAS_BACKEND=tensorflow")
    image = keras.Input((*(size_px or (None, None)), 3), batch_size=batch, name=IMAGE)
    outputs = fold_batch_norms(inference_model(model))(image)
    scores = ops.sigmoid(margins(outputs["scores"]))
    return keras.Model(image, {"boxes": outputs["boxes"], "scores": scores}, name=model.name)


def margins(logits: Any) -> Any:
    """[..., 2] logits of background and face -> [...]; the sigmoid of the difference is the softmax over the two."""
    return logits[..., 1] - logits[..., 0]


def anchor_grid(spec: AnchorSpec, height_px: Any, width_px: Any) -> Any:
    """`lib.geometry.anchors.anchor_grid` for a size, int32, known only when the graph runs: [n, 4] cxcywh, relative."""
    rows, columns = _rounded_up(height_px, spec.strides[0]), _rounded_up(width_px, spec.strides[0])
    height, width = ops.cast(height_px, "float32"), ops.cast(width_px, "float32")
    levels = []
    for stride, size in zip(spec.strides, spec.sizes, strict=True):
        x, y = ops.meshgrid(
            (ops.cast(ops.arange(columns), "float32") + 0.5) * stride / width,
            (ops.cast(ops.arange(rows), "float32") + 0.5) * stride / height,
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
    centre = anchors_cxcywh[..., :2] + offsets[..., :2] * VARIANCES[0] * anchors_cxcywh[..., 2:]
    half = anchors_cxcywh[..., 2:] * ops.exp(ops.minimum(offsets[..., 2:] * VARIANCES[1], MAX_LOG_SIZE)) / 2
    return ops.concatenate([centre - half, centre + half], axis=-1)


def _rounded_up(size: Any, step: int) -> Any:
    """The quotient rounded up. Not as -(-size // step): converters divide negative numbers by truncation."""
    return (size + step - 1) // step
