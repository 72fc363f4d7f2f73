"""The one place where a detector is cut for export: from an image to offsets and scores.

`lib.models.decoding` turns them into boxes within a graph, `lib.detection.candidates` outside of it.
"""

from typing import Any

import keras
from keras import ops

from lib.errors import ModelError
from lib.geometry.anchors import AnchorSpec, Scoring
from lib.models import ANY_SIZE, anchors_of, inference_model, size_of_images
from lib.models.decoding import margins
from lib.models.folding import fold_batch_norms

IMAGE = "image"  # the input's name in every format


def exportable(model: keras.Model, size_px: tuple[int, int] | None, batch: int | None = None) -> keras.Model:
    """What is written of a detector: the part that detects, batch normalisation folded away.

    Args:
        size_px: height and width of its images; None: any.
        batch: how many images at once; None: any number.

    Returns:
        Model from `image`, float32 [B, H, W, 3], RGB 0..255, to `boxes` [B, n, 4], the network's offsets, `scores`
        [B, n], the faces' probabilities 0..1, and, where it finds landmarks, `landmarks` [B, n, 2 k], offsets too.

    Raises:
        ModelError: the model is no detector, takes images of another size alone, or Keras runs on another backend than
            TensorFlow, whose converters write the formats.

    """
    anchors = anchors_of(model)
    if keras.backend.backend() != "tensorflow":
        raise ModelError(f"Keras runs on {keras.backend.backend()}; exporting needs KERAS_BACKEND=tensorflow")
    own = size_of_images(model)
    if own and size_px and own != size_px:
        raise ModelError(
            f"model {model.name!r} takes images of {own[0]}x{own[1]} (height x width) alone, not of "
            f"{size_px[0]}x{size_px[1]}; give its own size, or take {ANY_SIZE}"
        )
    image = keras.Input((*(size_px or (None, None)), 3), batch_size=batch, name=IMAGE)
    outputs = fold_batch_norms(inference_model(model))(image)
    found = {"boxes": outputs["boxes"], "scores": _scores(outputs["scores"], anchors.scoring)}
    if anchors.landmarks:
        found["landmarks"] = outputs["landmarks"]
    return keras.Model(image, found, name=model.name)


def output_names(anchors: AnchorSpec) -> tuple[str, ...]:
    """What `exportable` gives, in the order in which it is asked for."""
    return ("boxes", "scores", "landmarks") if anchors.landmarks else ("boxes", "scores")


def _scores(logits: Any, scoring: Scoring) -> Any:
    """[..., 2] -> probabilities [...], of operators that every runtime has."""
    if scoring == "softmax":
        return ops.sigmoid(margins(logits, scoring))
    both = ops.sigmoid(logits)
    return ops.sqrt(both[..., 0] * both[..., 1])
