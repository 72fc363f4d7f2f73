"""A trained detector as Keras' own file, `detector.keras`: any image size as a rule, can be trained further."""

import os

import keras
import numpy as np
from numpy.typing import NDArray

from lib.arrays import FloatArray
from lib.detection.candidates import from_logits, joined
from lib.models import anchors_of, inference_model, load, save, size_of_images
from lib.models.any_size import ready_for_any_size
from lib.models.folding import fold_batch_norms


def write(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Writes the model as it is; its layers say what its outputs mean.

    Raises:
        ModelError: the path does not end in .keras, or the model is no detector.

    """
    anchors_of(model)
    save(model, path)


class KerasNetwork:
    """A Keras model of this toolkit as a `Network`.

    Args:
        model: a detector, or a `.keras` file. A model in memory may still be trained; that of a file may not, so its
            batch normalisation is folded, which saves a quarter of the time and computes the very numbers that the
            other formats compute.

    Raises:
        ModelError: the file is no detector.

    """

    def __init__(self, model: str | os.PathLike[str] | keras.Model) -> None:
        live = isinstance(model, keras.Model)
        loaded = model if live else load(model)
        self.anchors = anchors_of(loaded)
        self.size_px = size_of_images(loaded)
        detecting = inference_model(loaded)
        self.model = detecting if live else fold_batch_norms(detecting)
        ready_for_any_size(self.model)

    def candidates(self, images_rgb: NDArray[np.uint8], score_threshold: float) -> list[tuple[FloatArray, FloatArray]]:
        """Of each image decoded boxes [n, 4 + 2 landmarks] and scores [n] before NMS, best first, at most 5000."""
        outputs = self.model.predict_on_batch(images_rgb.astype(np.float32))
        offsets, logits = joined(outputs), np.asarray(outputs["scores"], np.float32)
        size = images_rgb.shape[1:3]
        return [from_logits(*one, self.anchors, size, score_threshold) for one in zip(offsets, logits, strict=True)]
