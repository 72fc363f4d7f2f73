"""Reading and writing images: RGB uint8 in memory, whole files or a clear error."""

import os
import struct
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from lib.errors import DataError
from lib.files import replacing

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def image_files(folder: str | os.PathLike[str]) -> list[Path]:
    """The image files, by suffix, in a folder and the folders in it, sorted; hidden ones left out.

    Raises:
        DataError: there is no such folder, or no image in it.

    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; expected one with images")
    files = (path for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))
    found = sorted(path for path in files if path.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise DataError(f"{root}: no image in it; expected files that end in {', '.join(IMAGE_SUFFIXES)}")
    return found


def read_rgb(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] of an image file; grey files are repeated to three channels, alpha is dropped.

    Raises:
        DataError: the file is missing, is no image, or was cut short (OpenCV alone would fill the rest with grey).

    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if _is_truncated(data):
        raise DataError(
            f"{path}: cut short ({len(data)} bytes, the end of the image is missing); fetch it again or remove it"
        )
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if bgr is None:
        raise DataError(f"{path}: not an image that OpenCV can decode; fetch it again or remove it")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def write_rgb(path: str | os.PathLike[str], image_rgb: NDArray[np.uint8]) -> None:
    """Writes uint8 [H, W, 3] in the format of the path's suffix; the file is whole or absent."""
    with replacing(path) as temporary:
        done, data = cv2.imencode(Path(path).suffix, cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR))
        if not done:
            raise DataError(f"{path}: OpenCV cannot encode this format")
        temporary.write_bytes(data.tobytes())


def _is_truncated(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end marker; other formats are left to the decoder."""
    if data[:2] == b"\xff\xd8":
        scan = _jpeg_scan_start(data)
        return scan is None or data.rfind(b"\xff\xd9") < scan
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return b"IEND" not in data[-64:]
    return False


def _jpeg_scan_start(data: bytes) -> int | None:
    """Position of a JPEG's first scan, past the segments (a thumbnail in one of them has an end of its own)."""
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xDA:
            return position
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        position += 2 + struct.unpack(">H", data[position + 2 : position + 4])[0]
    return None
