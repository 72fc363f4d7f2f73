"""A trained detector for LiteRT, `detector.tflite`: what runs on phones and small boards.

TensorFlow and LiteRT are imported inside the functions that need them.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from lib.arrays import FloatArray
from lib.detection.candidates import from_scores, joined
from lib.detection.description import KEY, Description, model_sha256, read_description, require_ends, sealed
from lib.detection.formats.delegable import delegable
from lib.detection.formats.quantized import quantize
from lib.detection.head import IMAGE, exportable
from lib.errors import ModelError
from lib.files import replacing, require_ending
from lib.models import PadToMultiple, anchors_of

PRECISIONS = ("float32", "float16", "int8")


def write(
    model: keras.Model,
    path: str | os.PathLike[str],
    size_px: tuple[int, int] | None,
    precision: str = "float32",
    images: Sequence[NDArray[np.uint8]] = (),
) -> int:
    """Writes a detector as a LiteRT model of built-in operators alone, batch normalisation folded away.

    Input `image`: float32 [1, H, W, 3], RGB 0..255. Outputs: `boxes` float32 [1, n, 4], the network's offsets, for
    `lib.geometry.anchors.decode`; `scores` float32 [1, n], the faces' probabilities 0..1; of a YuNet also `landmarks`
    float32 [1, n, 10]. The metadata has a `lib.detection.description` under "face_detector".

    Args:
        size_px: height and width of its images; None: any, and the interpreter allocates anew at each new size.
        precision: "float32"; "float16": weights of half the bytes, computed in float32 on a CPU; "int8": see
            `lib.detection.formats.quantized`.
        images: for int8, uint8 [H, W, 3] of the given size, as the detector will see them: their activations decide
            the ranges.

    Returns:
        The file's size in bytes.

    Raises:
        ModelError: the path does not end in .tflite, the precision is none of these or wants a size or images that are
            missing, the model is no detector or needs operators that LiteRT does not have, or Keras runs on another
            backend than TensorFlow.

    """
    require_ending(path, ".tflite")
    if precision not in PRECISIONS:
        why = "; 16-bit activations are 10 to 20 times slower on a CPU" if "16" in precision else ""
        raise ModelError(f"LiteRT models are written as {', '.join(PRECISIONS)}, not as {precision!r}{why}")
    if precision == "int8" and (size_px is None or not images or any(image.shape[:2] != size_px for image in images)):
        raise ModelError(f"{path}: int8 needs a fixed size, and images of this size to measure the activations on")
    network = delegable(exportable(model, size_px, batch=1))
    if size_px is None and any(isinstance(layer, PadToMultiple) for layer in model.layers):
        raise ModelError(f"{path}: {model.name} pads its images, which LiteRT can do for a fixed size only; give one")
    import tensorflow as tf

    options: dict[str, Any] = {"target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}}
    if precision != "float32":
        options["optimizations"] = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        options["target_spec"]["supported_types"] = [tf.float16]
    if precision == "int8":
        options["target_spec"]["supported_ops"] = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        options["representative_dataset"] = lambda: ({IMAGE: image[None].astype(np.float32)} for image in images)
        options["_experimental_calibrate_only"] = True
    description = Description(anchors_of(model), size_px, precision, model_sha256(model))
    with replacing(path) as temporary:
        signature = [keras.InputSpec(shape=network.input.shape, dtype="float32", name=IMAGE)]
        try:
            network.export(temporary, "litert", False, signature, **options)
        except Exception as error:  # the converter's own class, which it does not export
            if "not supported" not in str(error) and "Flex" not in str(error):
                raise
            raise ModelError(f"{path}: LiteRT has no operators for this model: {error}") from error
        content = temporary.read_bytes()
        if precision == "int8":
            content = quantize(content)
        temporary.write_bytes(sealed(_described(content, description)))
        if precision == "int8":
            _require_loadable(temporary, path)
    return Path(path).stat().st_size


def _require_loadable(file: Path, path: str | os.PathLike[str]) -> None:
    """Loads a quantised model in a process of its own: of ranges without extent the interpreter may die."""
    script = "import sys; from ai_edge_litert.interpreter import Interpreter as I; I(sys.argv[1]).allocate_tensors()"
    done = subprocess.run([sys.executable, "-c", script, str(file)], capture_output=True, check=False)  # noqa: S603
    if done.returncode:
        raise ModelError(
            f"{path}: LiteRT cannot load the int8 model; were the images all of one colour? Give some dozens of "
            "photographs like those that the detector will see"
        )


def _described(content: bytes, description: Description) -> bytes:
    """The LiteRT model with the description among its metadata."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(description.to_json().encode(), np.uint8)
    entry.name, entry.buffer = KEY, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


class LiteRTNetwork:
    """A `.tflite` file as a `Network`.

    Args:
        path: what `write` wrote.
        threads: of the interpreter; None: one.

    Attributes:
        description: what it says about itself.
        size_px: height and width of the images it takes; None: any.

    Raises:
        ModelError: the file is missing, damaged or no detector of this toolkit, or LiteRT is not installed.

    """

    def __init__(self, path: str | os.PathLike[str], threads: int | None = None) -> None:
        file = Path(path)
        if not file.is_file():
            raise ModelError(f"{file}: no such file; expected a LiteRT model, as tools/export.py writes it")
        self.description = read_description(file.read_bytes(), file)  # LiteRT may crash on a damaged file
        self.size_px = self.description.size_px
        self.anchors = self.description.anchors
        self._model = LiteRTModel(file, threads or 1)
        require_ends(file, self.description, self._model.ends(), self.size_px)
        self._file = file

    def __call__(self, image_rgb: NDArray[Any]) -> tuple[FloatArray, FloatArray]:
        """Offsets [n, 4 + 2 landmarks] and scores [n] of an image [1, H, W, 3], 0..255.

        ModelError: n is another number than that of the anchors.
        """
        if self.size_px is None and image_rgb.shape[1:3] != (self._model.height_px, self._model.width_px):
            self._model.resize(*image_rgb.shape[1:3])
        outputs = self._model(image_rgb)
        ends = {IMAGE: image_rgb.shape, **{name: value.shape for name, value in outputs.items()}}
        require_ends(self._file, self.description, ends, (image_rgb.shape[1], image_rgb.shape[2]))
        return joined(outputs)[0], outputs["scores"][0]

    def candidates(self, images_rgb: NDArray[np.uint8], score_threshold: float) -> list[tuple[FloatArray, FloatArray]]:
        """Of each image decoded boxes [n, 4 + 2 landmarks] and scores [n] before NMS, best first, at most 5000."""
        size = images_rgb.shape[1:3]
        return [from_scores(*self(image[None]), self.anchors, size, score_threshold) for image in images_rgb]


class LiteRTModel:
    """A `.tflite` file in LiteRT's interpreter, on the CPU.

    Args:
        path: a LiteRT model with one signature, such as `write` writes.
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

    def ends(self) -> dict[str, list[int]]:
        """The shapes of its input and outputs by name; -1: open."""
        runner = self._interpreter.get_signature_runner("serving_default")
        details = {**runner.get_input_details(), **runner.get_output_details()}
        return {name: end["shape_signature"].tolist() for name, end in details.items()}

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
