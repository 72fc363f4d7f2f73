"""A trained detector as `detector.onnx`, for ONNX Runtime on any machine, browsers and servers included.

TensorFlow, onnx and ONNX Runtime are imported inside the functions that need them.
"""

import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from lib.arrays import FloatArray
from lib.detection.candidates import from_scores, joined
from lib.detection.description import KEY, REMEDY, Description, model_sha256, read_description, require_ends, sealed
from lib.detection.head import IMAGE, exportable, output_names
from lib.errors import ModelError
from lib.files import replacing
from lib.models import anchors_of

OPSET = 15  # old enough for every runtime of the last years, OpenCV's included


def write(model: keras.Model, path: str | os.PathLike[str], size_px: tuple[int, int] | None = None) -> int:
    """Writes a detector as an ONNX model; ONNX Runtime has opened and run it before it counts as written.

    Input `image`: float32 [B, H, W, 3], RGB 0..255; B is 1 where a size is given. Outputs: `boxes` [B, n, 4], the
    network's offsets, for `lib.geometry.anchors.decode`; `scores` [B, n], the faces' probabilities 0..1; of a YuNet
    also `landmarks` [B, n, 10]. The metadata has a `lib.detection.description` under "face_detector".

    Args:
        size_px: height and width of its images; None: any.

    Returns:
        The file's size in bytes.

    Raises:
        ModelError: the model is no detector, its file cannot be run, a package is missing, or Keras runs on another
            backend than TensorFlow.

    """
    network = exportable(model, size_px, batch=1 if size_px else None)
    onnx = _package("onnx")
    _package("tf2onnx")
    signature = [keras.InputSpec(shape=network.input.shape, dtype="float32", name=IMAGE)]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tf2onnx asks NumPy for names that are going away
        network.export(f"{folder}/{IMAGE}.onnx", "onnx", False, signature, opset_version=OPSET)
        made = onnx.load(f"{folder}/{IMAGE}.onnx")
    named: list[tuple[Any, tuple[str, ...]]] = [(made.graph.input[0], ("batch", "height", "width"))]
    named += [(output, ("batch", "anchors")) for output in made.graph.output]
    for value, sizes in named:
        for dimension, name in zip(value.type.tensor_type.shape.dim, sizes, strict=False):
            if not dimension.HasField("dim_value"):
                dimension.dim_param = name
    description = Description(anchors_of(model), size_px, "float32", model_sha256(model))
    onnx.helper.set_model_props(made, {KEY: description.to_json()})
    with replacing(path) as temporary:
        temporary.write_bytes(sealed(made.SerializeToString(deterministic=True)))
        OnnxNetwork(temporary)(np.zeros((1, *(size_px or (32, 32)), 3), np.float32))
    return Path(path).stat().st_size


class OnnxNetwork:
    """An `.onnx` file in ONNX Runtime, on the CPU.

    Args:
        path: what `write` wrote.
        threads: of the runtime; None: one a core.

    Attributes:
        description: what it says about itself.
        size_px: height and width of the images it takes; None: any.

    Raises:
        ModelError: the file is missing, damaged or no detector of this toolkit, or ONNX Runtime is not installed.

    """

    def __init__(self, path: str | os.PathLike[str], threads: int | None = None) -> None:
        file = Path(path)
        if not file.is_file():
            raise ModelError(f"{file}: no such file; expected an ONNX model, as tools/export.py writes it")
        runtime = _package("onnxruntime")
        content = file.read_bytes()
        self.description = read_description(content, file)
        self.size_px = self.description.size_px
        self.anchors = self.description.anchors
        self._outputs = output_names(self.anchors)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3  # errors; the others repeat what cannot be changed
        try:
            self._session: Any = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's classes have no common base but this
            raise ModelError(f"{file}: ONNX Runtime {runtime.__version__} cannot run it ({error}); {REMEDY}") from error
        ends = {end.name: end.shape for end in (*self._session.get_inputs(), *self._session.get_outputs())}
        require_ends(file, self.description, ends, self.size_px)
        self._file = file

    def __call__(self, images_rgb: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Offsets [B, n, 4 + 2 landmarks] and scores [B, n] of images float32 [B, H, W, 3], 0..255.

        ModelError: n is another number than that of the anchors.
        """
        outputs = dict(zip(self._outputs, self._session.run(self._outputs, {IMAGE: images_rgb}), strict=True))
        ends = {IMAGE: images_rgb.shape, **{name: value.shape for name, value in outputs.items()}}
        require_ends(self._file, self.description, ends, (images_rgb.shape[1], images_rgb.shape[2]))
        return joined(outputs), outputs["scores"]

    def candidates(self, images_rgb: NDArray[np.uint8], score_threshold: float) -> list[tuple[FloatArray, FloatArray]]:
        """Of each image decoded boxes [n, 4 + 2 landmarks] and scores [n] before NMS, best first, at most 5000."""
        images = images_rgb.astype(np.float32)
        found = [self(images)] if self.size_px is None else [self(image[None]) for image in images]
        size = images.shape[1:3]
        return [
            from_scores(*one, self.anchors, size, score_threshold)
            for offsets, scores in found
            for one in zip(offsets, scores, strict=True)
        ]


def _package(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        raise ModelError(f"ONNX models need {name}, which cannot be imported: {error}") from error
