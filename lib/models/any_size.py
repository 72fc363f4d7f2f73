"""Prediction on images of many sizes with one compiled function."""

import keras
import numpy as np

from lib.pruning.graph.calls import layers_of

_SIZES_PX = ((32, 48), (64, 32))  # different in both directions


def ready_for_any_size(model: keras.Model) -> None:
    """Prepares `predict_on_batch` of a model with one image input for images of changing size.

    XLA is switched off: it would compile anew, for seconds, at every new size. And TensorFlow mixes up the padding of
    dilated convolutions of different levels if it is told that images differ in height only; models with such
    convolutions first see two blank images that differ in both, which unties them for good, unless all are of one size.
    """
    if keras.backend.backend() != "tensorflow":
        return
    model.jit_compile = False
    if None in model.inputs[0].shape[1:3] and any(max(_dilation(layer)) > 1 for layer in layers_of(model)):
        for height, width in _SIZES_PX:
            model.predict_on_batch(np.zeros((1, height, width, 3), np.float32))


def _dilation(layer: keras.layers.Layer) -> tuple[int, ...]:
    rate = getattr(layer, "dilation_rate", 1)
    return (rate,) if isinstance(rate, int) else tuple(rate)
