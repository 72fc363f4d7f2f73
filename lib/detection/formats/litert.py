"""A trained detector for LiteRT, `detector.tflite`, at a fixed input size: what runs on phones and small boards.

TensorFlow and LiteRT are imported inside the functions that need them.
"""

import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from lib.arrays import FloatArray
from lib.errors import ModelError
from lib.files import replacing
from lib.models import anchors_of, inference_model
from lib.models.folding import fold_batch_norms


def export_litert(model: keras.Model, path: str | os.PathLike[str], height_px: int, width_px: int) -> int:
    """Writes a detector as a LiteRT model of built-in float32 operators, batch normalisation folded away.

    Input `image`: float32 [1, height_px, width_px, 3], RGB 0..255. Outputs: `boxes` float32 [1, n, 4], the network's
    offsets, for `lib.geometry.anchors.decode`; `scores` float32 [1, n], the faces' probabilities 0..1.

    Returns:
        The file's size in bytes.

    Raises:
        ModelError: the path does not end in .tflite, the model is no detector, or Keras runs on another backend than
            TensorFlow.

    """
    if Path(path).suffix != ".tflite":
        raise ModelError(f"{path}: the name of a LiteRT model must end in .tflite")
    if keras.backend.backend() != "tensorflow":
        raise ModelError(f"Keras runs on {keras.backend.backend()}; LiteRT needs KERAS_BACKEND=tensorflow")
    if not isinstance(model.output, dict) or not {"boxes", "scores"} <= set(model.output):
        raise ModelError(f"model {model.name!r} is no face detector: it has no outputs 'boxes' and 'scores'")
    if anchors_of(model).scoring != "softmax":
        raise ModelError(f"model {model.name!r}: its scores and landmarks cannot be written as LiteRT yet")
    image = keras.Input((height_px, width_px, 3), batch_size=1, name="image")
    outputs = fold_batch_norms(inference_model(model))(image)
    # The softmax over two classes is the sigmoid of their difference, at a fraction of its time.
    scores = ops.sigmoid(outputs["scores"][..., 1] - outputs["scores"][..., 0])
    fixed = keras.Model(image, {"boxes": outputs["boxes"], "scores": scores}, name=model.name)
    import tensorflow as tf

    with replacing(path) as temporary:
        fixed.export(
            temporary,
            format="litert",
            verbose=False,
            input_signature=[keras.InputSpec(shape=image.shape, dtype="float32", name="image")],
            target_spec={"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]},
        )
    return Path(path).stat().st_size


class LiteRTModel:
    """A `.tflite` file in LiteRT's interpreter, on the CPU.

    Args:
        path: what `export_litert` wrote.
        threads: of the interpreter.

    Raises:
        ModelError: the file is missing or no LiteRT model, or LiteRT is not installed.

    """

    def __init__(self, path: str | os.PathLike[str], threads: int = 1) -> None:
        file = Path(path)
        if not file.is_file():
            raise ModelError(f"{file}: no such file; expected a LiteRT model (.tflite)")
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise ModelError(f"LiteRT models need ai-edge-litert, which cannot be imported: {error}") from error
        try:
            self._interpreter: Any = Interpreter(str(file), num_threads=threads)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ModelError(f"{file}: no LiteRT model, or damaged: {error}") from error
        (image,) = self._interpreter.get_input_details()
        _, self.height_px, self.width_px, _ = self._shape = tuple(image["shape"].tolist())

    def __call__(self, image_rgb: NDArray[Any]) -> dict[str, FloatArray]:
        """The outputs by name for an image [1, H, W, 3], 0..255, of the model's own size."""
        if image_rgb.shape != self._shape:
            raise ValueError(f"expected an image of shape {self._shape}, got {image_rgb.shape}")
        runner = self._interpreter.get_signature_runner("serving_default")
        return {name: np.asarray(value) for name, value in runner(image=image_rgb.astype(np.float32)).items()}

    def resize(self, height_px: int, width_px: int) -> None:
        """Takes images of another size from now on; only for a model that computes nothing from its fixed size."""
        (image,) = self._interpreter.get_input_details()
        self._shape = (1, height_px, width_px, self._shape[3])
        self._interpreter.resize_tensor_input(image["index"], self._shape)
        self._interpreter.allocate_tensors()
        self.height_px, self.width_px = height_px, width_px

    def invoke(self) -> None:
        """One inference on whatever image the interpreter holds, without copying anything: for measurements."""
        self._interpreter.invoke()
