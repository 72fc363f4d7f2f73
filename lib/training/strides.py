"""A way round a crash: narrow 1x1 convolutions that stride are computed as a slice and a convolution without stride.

TensorFlow with oneDNN on CPUs with AVX-512 dies in the gradient of a 1x1 convolution with stride 2 or more that reads
fewer than 16 channels. Taking every second pixel first is the same function, and its gradient is another.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
from keras import layers, ops

NARROW = 16  # input channels from which on the gradient lives


def narrow_strided(model: keras.Model) -> list[Any]:
    """The layers of a model, and of the models in it, that the crash concerns: convolutions of any rank."""
    return [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, layers.Conv1D | layers.Conv2D | layers.Conv3D)
        and type(layer).convolution_op is layers.Conv2D.convolution_op
        and set(layer.kernel_size) == {1}
        and max(layer.strides) > 1
        and layer.kernel.shape[-2] < NARROW
    ]


@contextmanager
def sliced(convolutions: Sequence[Any]) -> Iterator[None]:
    """Inside, what is traced computes these layers the other way; they are saved as they are, inside too.

    For a step of your own: `with sliced(narrow_strided(model)): model.fit(...)`.
    """
    try:
        for layer in convolutions:
            layer.convolution_op = _without_stride(layer)
        yield
    finally:
        for layer in convolutions:
            vars(layer).pop("convolution_op", None)


def _without_stride(layer: Any) -> Callable[[Any, Any], Any]:
    steps = tuple(slice(None, None, stride) for stride in layer.strides)
    first = layer.data_format == "channels_first"
    taken = (slice(None), slice(None), *steps) if first else (slice(None), *steps)

    def convolution_op(inputs: Any, kernel: Any) -> Any:
        return ops.conv(inputs[taken], kernel, padding="valid", data_format=layer.data_format)

    return convolution_op
