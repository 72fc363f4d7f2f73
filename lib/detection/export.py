"""A trained detector in every format that is asked for, in one folder."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from lib.detection.formats import FILES, OPENCV, OPENCV_FILE, litert, onnx, opencv, pb, saved_model
from lib.detection.formats import keras as keras_format
from lib.detection.formats.litert import PRECISIONS
from lib.errors import ConfigError
from lib.files import require_output

_FILES = {**FILES, OPENCV: OPENCV_FILE}


@dataclass(frozen=True)
class Written:
    """One file, or a SavedModel's folder.

    Attributes:
        format: as `FILES` names it, or "opencv".
        precision: "float32"; of LiteRT also "float16" and "int8".
        path: where it is.
        size_bytes: of all its files.

    """

    format: str
    precision: str
    path: Path
    size_bytes: int

    @property
    def name(self) -> str:
        return self.format if self.precision == "float32" else f"{self.format} {self.precision}"


def export(
    model: keras.Model,
    folder: str | os.PathLike[str],
    formats: Sequence[str],
    precisions: Sequence[str] = ("float32",),
    size_px: tuple[int, int] | None = None,
    images: Sequence[NDArray[np.uint8]] = (),
) -> list[Written]:
    """Writes `detector.keras` and the like; further precisions, of LiteRT alone, as `detector_int8.tflite`.

    Args:
        formats: names in `FILES`, and "opencv" for a YuNet, see `lib.detection.formats.opencv`.
        precisions: names in `PRECISIONS`; where float32 is none of them, LiteRT is not written in it.
        size_px: height and width that LiteRT and ONNX files take; None: any. The others take any anyway.
        images: uint8 [H, W, 3] of that size, for int8.

    Raises:
        ConfigError: a format or precision has another name.
        ModelError: as the formats' `write`.

    """
    check_names(formats, precisions)
    written = []
    for name, precision, file in _files(folder, formats, precisions):
        if name == "keras":
            keras_format.write(model, file)
        elif name == "pb":
            pb.freeze(model, file)
        elif name == "saved_model":
            saved_model.write(model, file)
        elif name == "litert":
            litert.write(model, file, size_px, precision, images)
        elif name == OPENCV:
            opencv.write_opencv(model, file)
        else:
            onnx.write(model, file, size_px)
        parts = [file] if file.is_file() else [part for part in file.rglob("*") if part.is_file()]
        written.append(Written(name, precision, file, sum(part.stat().st_size for part in parts)))
    return written


def _files(
    folder: str | os.PathLike[str], formats: Sequence[str], precisions: Sequence[str]
) -> Iterator[tuple[str, str, Path]]:
    """Format, precision and path of each file, or SavedModel's folder, that `export` writes."""
    for name in dict.fromkeys(formats):
        path = Path(folder) / _FILES[name]
        for precision in dict.fromkeys(precisions if name == "litert" else ("float32",)):
            yield name, precision, path if precision == "float32" else path.with_stem(f"{path.stem}_{precision}")


def check_files(
    folder: str | os.PathLike[str], formats: Sequence[str], precisions: Sequence[str], checkpoint: Path
) -> None:
    """Raises ConfigError if `export` would replace the checkpoint, or one of its files is a folder."""
    for name, _, file in _files(folder, formats, precisions):
        if name != "saved_model":
            require_output(file, others=[checkpoint])


def check_names(formats: Sequence[str], precisions: Sequence[str]) -> None:
    """Raises ConfigError unless all are names of formats and precisions."""
    for what, names, known in (("format", formats, tuple(_FILES)), ("precision", precisions, PRECISIONS)):
        for name in names:
            if name not in known:
                why = "; 16-bit activations are 10 to 20 times slower on a CPU" if "16" in name else ""
                raise ConfigError(f"no {what} is called {name!r}; known: {', '.join(known)}{why}")
