"""Reading and writing images: RGB uint8 in memory, whole files or a clear error."""

import logging
import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from lib.data.declared import declared_size, is_cut_short, png_bits
from lib.errors import DataError
from lib.files import replacing
from lib.limits import limit, raising

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_OTHER_SUFFIXES = (
    *(".jfif", ".jpe", ".jp2", ".heic", ".heif", ".avif", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".dng", ".cr2"),
    *(".nef", ".arw", ".psd", ".exr", ".hdr", ".jxl"),
)
_KINDS = ", or none of JPEG, PNG, BMP, WebP, TIFF, GIF, PNM, JPEG 2000 and AVIF"  # that say their size
_DEPTHS = (8, 10, 12, 14, 16)  # bits of the sensors whose numbers are kept in 16


def image_files(folder: str | os.PathLike[str]) -> list[Path]:
    """The image files, by suffix, in a folder and the folders in it, linked ones too, sorted; hidden files left out.

    Images of other formats and folders that cannot be read are left out too, which is logged as a warning.

    Raises:
        DataError: there is no such folder, or no image in it.

    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; expected one with images")
    files = sorted(path for path in _below(root) if path.is_file() and not path.name.startswith("."))
    found = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    others = [path for path in files if path.suffix.lower() in _OTHER_SUFFIXES]
    left_out = ""
    if others:
        kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(path.suffix for path in others).items())
        left_out = f"{kinds} left out, the first {others[0]}: convert them to {IMAGE_SUFFIXES[0]} or .png"
    if not found:
        more = f" ({left_out})" if left_out else ""
        raise DataError(f"{root}: no image in it; expected files that end in {', '.join(IMAGE_SUFFIXES)}{more}")
    if left_out:
        logger.warning("%s: %s", root, left_out)
    return found


def _below(root: Path) -> Iterator[Path]:
    """What lies in a folder and the folders in it; of several ways to a folder, by links, only the first is taken."""
    seen: set[str] = set()
    for directory, folders, files in os.walk(
        root, onerror=lambda error: logger.warning("%s: left out, %s", error.filename, error.strerror), followlinks=True
    ):
        folders.sort()
        if (place := os.path.realpath(directory)) in seen:
            folders.clear()
            continue
        seen.add(place)
        yield from (Path(directory, name) for name in files)


def read_rgb(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] of an image file; grey files are repeated to three channels, alpha is dropped.

    Of 16 bits a sample, the upper 8 of those that are used: as the file says, or else by its brightest pixel.

    Raises:
        DataError: the file is missing, is no image, says that it has more pixels than `lib.limits` allow, or was cut
            short (OpenCV alone would fill the rest with grey).

    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 as below; a pipe would be waited for
            raise DataError(f"{path}: no file, but a folder, pipe or device; expected an image")
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 a Path and a buffer cost more than all the checks
            data = file.read()
    except (OSError, ValueError) as error:  # a name with a NUL in it
        raise DataError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    size = declared_size(data)
    if size and size[0] * size[1] > (most := limit("max_pixels")):
        raise DataError(
            f"{path}: says that it has {size[0]}x{size[1]} px; at most {most:,} pixels are read: make it smaller, "
            f"remove it, or {raising('max_pixels')}"
        )
    if is_cut_short(data):
        raise DataError(
            f"{path}: cut short ({len(data)} bytes, the end of the image is missing); fetch it again or remove it"
        )
    bgr = None
    if size:  # of what has no known header nobody knows how much memory it takes
        try:
            bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
        except cv2.error as error:
            raise DataError(f"{path}: not an image that OpenCV can decode ({error.err})") from error
    if bgr is None or bgr.dtype not in (np.uint8, np.uint16):
        raise DataError(
            f"{path}: not an image{' that OpenCV can decode' if size else _KINDS}; fetch it again or remove it"
        )
    if bgr.dtype == np.uint16:
        used = int(bgr.max()).bit_length()
        bits = max(png_bits(data) or 0, next(depth for depth in _DEPTHS if depth >= used))
        bgr = (bgr >> (min(bits, 16) - 8)).astype(np.uint8)
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def write_rgb(path: str | os.PathLike[str], image_rgb: NDArray[np.uint8]) -> None:
    """Writes uint8 [H, W, 3] in the format of the path's suffix; the file is whole or absent."""
    with replacing(path) as temporary:
        done, data = cv2.imencode(Path(path).suffix, cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR))
        if not done:
            raise DataError(f"{path}: OpenCV cannot encode this format")
        temporary.write_bytes(data.tobytes())
