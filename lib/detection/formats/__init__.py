"""The formats that a detector is written in and read from, a module each, with `write` and the reader."""

import os
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lib.arrays import FloatArray
from lib.errors import ConfigError, ModelError
from lib.geometry.anchors import AnchorSpec

FILES = {  # what each format's file is called in an export folder
    "keras": "detector.keras",
    "pb": "detector.pb",
    "saved_model": "detector.saved_model",
    "litert": "detector.tflite",
    "onnx": "detector.onnx",
}
OPENCV = "opencv"  # one more, which OpenCV reads and `FaceDetector` does not
OPENCV_FILE = "detector_opencv.onnx"


class Network(Protocol):
    """What `FaceDetector` needs of a model, one class a format.

    Attributes:
        size_px: height and width of the images it takes; None: any.
        anchors: what its boxes belong to, which says also how many landmarks it finds.

    """

    @property
    def size_px(self) -> tuple[int, int] | None: ...
    @property
    def anchors(self) -> AnchorSpec: ...

    def candidates(self, images_rgb: NDArray[np.uint8], score_threshold: float) -> list[tuple[FloatArray, FloatArray]]:
        """Of each of the images [B, H, W, 3] decoded boxes [n, 4 + 2 landmarks] and scores [n], best first.

        A box is xyxy and then the x, y of each landmark, all relative to the image.
        """
        ...


def open_network(path: str | os.PathLike[str], threads: int | None = None) -> Network:
    """The network in a file, or a SavedModel's folder, by its name's ending.

    Args:
        threads: of LiteRT and ONNX Runtime; None: what they do of themselves.

    Raises:
        ModelError: there is no detector of this toolkit.
        ConfigError: threads are asked for where TensorFlow runs, which has one setting for a whole process.

    """
    file = Path(path)
    if threads is not None and threads < 1:
        raise ConfigError(f"threads must be at least 1, got {threads}")
    if file.suffix == ".tflite":
        from lib.detection.formats.litert import LiteRTNetwork

        return LiteRTNetwork(file, threads)
    if file.suffix == ".onnx":
        from lib.detection.formats.onnx import OnnxNetwork

        return OnnxNetwork(file, threads)
    if threads is not None:
        raise ConfigError(
            f"{file}: threads can be set for .tflite and .onnx; TensorFlow's are the same for the whole process, set "
            "TF_NUM_INTRAOP_THREADS before it starts"
        )
    if file.suffix == ".pb":
        from lib.detection.formats.pb import FrozenGraph

        return FrozenGraph(file)
    if file.is_dir():
        from lib.detection.formats.saved_model import SavedModel

        return SavedModel(file)
    from lib.detection.formats.keras import KerasNetwork

    return KerasNetwork(file)


def content_file(path: str | os.PathLike[str]) -> Path:
    """The file whose bytes tell one model from another: the file itself, of a SavedModel its graph.

    Raises:
        ModelError: there is no such file.

    """
    file = Path(path) / "saved_model.pb" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise ModelError(f"{file}: no such file; expected a model: {', '.join(FILES.values())}")
    return file
