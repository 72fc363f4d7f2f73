"""Face annotations as text -> records. Two formats are told apart by their first line.

The official WIDER FACE format (`*_bbx_gt.txt`): an image path, the number of faces, then `x y w h ...` a face, of which
the eighth number, if it is there, says 1 for an invalid face; an image without faces has the number 0 and may have one
line of zeros. The other: `path| x1,y1,x2,y2,1 x1,y1,x2,y2,1 ...`, one image a line.
"""

import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lib.arrays import BoolArray, FloatArray
from lib.errors import DataError
from lib.files import write_text

logger = logging.getLogger(__name__)

_INVALID_COLUMN = 7  # x y w h blur expression illumination invalid occlusion pose


@dataclass(frozen=True)
class Record:
    """One image and its faces.

    Attributes:
        name: the path as written in the annotation file.
        image: where the image is.
        boxes_xyxy_px: float32 [n, 4], n may be 0; every box has a positive width and height.
        origin: `file:line` of the annotation.
        invalid: bool [n], the faces that the official format flags as invalid; None: none.
        labelled: whether the faces are known; if not, there are no boxes, and no anchor is a face or background.

    """

    name: str
    image: Path
    boxes_xyxy_px: FloatArray
    origin: str
    invalid: BoolArray | None = None
    labelled: bool = True


def read_annotations(
    path: str | os.PathLike[str], image_root: str | os.PathLike[str], check_images: bool = True
) -> list[Record]:
    """Reads an annotation file of either format.

    Boxes without a positive width and height are dropped; their number is logged as a warning.

    Args:
        path: the annotation file.
        image_root: folder that the image paths in the file are relative to.
        check_images: whether every image must exist.

    Raises:
        DataError: the file is missing, empty or malformed, or images are missing; names the line and the remedy.

    """
    file = Path(path)
    records, dropped, first_dropped = [], 0, ""
    for name, number, boxes in _parse(file):
        array, positive = _corners(boxes)
        invalid = np.asarray([box.invalid for box in boxes], np.bool_)[positive]
        if not positive.all():
            dropped += int((~positive).sum())
            first_dropped = first_dropped or f"{file}:{boxes[int(np.argmin(positive))].line}"
        records.append(Record(name, Path(image_root) / name, array[positive], f"{file}:{number}", invalid))
    if dropped:
        logger.warning("%s: %d boxes of zero or negative size dropped, the first at %s", file, dropped, first_dropped)
    faceless = sum(not len(record.boxes_xyxy_px) for record in records)
    if faceless:
        logger.info("%s: %d of %d images without faces", file, faceless, len(records))
    if check_images:
        _check_images(file, records)
    return records


@dataclass(frozen=True)
class SplitCounts:
    """What `convert_split` wrote: images, those of them without faces, faces, and boxes of no size left out."""

    images: int
    faceless: int
    faces: int
    dropped: int


def convert_split(root: str | os.PathLike[str], split: str, output: str | os.PathLike[str]) -> SplitCounts:
    """Writes the official annotations of one split as lines `path| x1,y1,x2,y2,1 ...`.

    Every box without a positive width and height is left out. An image without faces is a line without boxes. Paths
    stay relative to `WIDER_<split>/images`, the image folder to give to `read_annotations`.

    Args:
        root: WIDER FACE's folder, with `WIDER_<split>` and `wider_face_split` in it.
        split: "train" or "val".
        output: the file to write.

    Raises:
        DataError: the folder or the annotations cannot be used; names file, line and remedy.

    """
    images = Path(root) / f"WIDER_{split}" / "images"
    file = Path(root) / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt"
    for wanted, there in ((images, images.is_dir()), (file, file.is_file())):
        if not there:
            raise DataError(f"{wanted}: not there; --root takes WIDER FACE as its archives unpack side by side")
    lines, records, faces, faceless, dropped = [], [], 0, 0, 0
    for name, number, boxes in _parse(file):
        if "|" in name:
            raise DataError(f"{file}:{number}: {name!r} has a | in it, which ends the path in the other format; rename")
        array, positive = _corners(boxes)
        kept = [box.corners for box, sound in zip(boxes, positive.tolist(), strict=True) if sound]
        lines.append(" ".join([f"{name}|", *(",".join([*map(_shortest, corners), "1"]) for corners in kept)]))
        records.append(Record(name, images / name, array[positive], f"{file}:{number}"))
        faces, dropped = faces + len(kept), dropped + len(boxes) - len(kept)
        faceless += not kept
    _check_images(file, records)
    write_text(output, "\n".join(lines) + "\n")
    return SplitCounts(len(records), faceless, faces, dropped)


def _shortest(value: float) -> str:
    """The shortest text that reads back as the same number."""
    return str(int(value)) if value.is_integer() else repr(value)


class _Box(NamedTuple):
    line: int
    corners: list[float]
    invalid: bool


_Parsed = tuple[str, int, list[_Box]]  # an image: its name, its line, its boxes


def _parse(file: Path) -> Iterator[_Parsed]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise DataError(f"{file}: no such annotation file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read as text ({error})") from error
    numbered = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        raise DataError(
            f"{file}: empty; expected WIDER FACE annotations (*_bbx_gt.txt) or lines `path| x1,y1,x2,y2,1 ...`"
        )
    yield from (_parse_lines if "|" in numbered[0][1] else _parse_official)(file, numbered)


def _corners(boxes: list[_Box]) -> tuple[FloatArray, BoolArray]:
    """float32 [n, 4] xyxy, and [n] whether width and height are positive."""
    corners = np.asarray([box.corners for box in boxes], np.float32).reshape(-1, 4)
    return corners, np.all(corners[:, 2:] > corners[:, :2], axis=1)


def _parse_official(file: Path, numbered: list[tuple[int, str]]) -> Iterator[_Parsed]:
    position = 0
    while position < len(numbered):
        name_line, name = numbered[position]
        if position + 1 == len(numbered):
            raise DataError(f"{file}:{name_line}: the file ends after {name!r}; expected the number of faces")
        count_line, text = numbered[position + 1]
        if not text.isdecimal():
            raise DataError(f"{file}:{count_line}: expected the number of faces of {name!r}, got {text!r}")
        count = int(text)
        position += 2
        rows = numbered[position : position + count]
        if len(rows) < count:
            raise DataError(
                f"{file}:{count_line}: {name!r} announces {count} faces, but the file ends after {len(rows)}"
            )
        boxes = []
        for number, row in rows:
            parts = row.split()
            x, y, w, h = _numbers(f"{file}:{number}", parts, f"a face of {name!r} as `x y w h ...`", row)
            invalid = parts[_INVALID_COLUMN : _INVALID_COLUMN + 1] == ["1"]
            boxes.append(_Box(number, [x, y, x + w, y + h], invalid))
        position += count
        if count == 0 and position < len(numbered) and _is_zero_row(numbered[position][1]):
            position += 1
        yield name, name_line, boxes


def _parse_lines(file: Path, numbered: list[tuple[int, str]]) -> Iterator[_Parsed]:
    for number, line in numbered:
        name, bar, rest = line.partition("|")
        if not bar or not name.strip():
            raise DataError(f"{file}:{number}: expected `path| x1,y1,x2,y2,1 ...`, got {line!r}")
        where = f"{file}:{number}"
        expected = f"boxes of {name.strip()!r} as `x1,y1,x2,y2,1`"
        boxes = [_Box(number, _numbers(where, group.split(","), expected, group), False) for group in rest.split()]
        yield name.strip(), number, boxes


def _numbers(where: str, parts: list[str], expected: str, row: str) -> list[float]:
    """The first four of `parts` as finite numbers."""
    try:
        values = [float(part) for part in parts[:4]]
    except ValueError:
        raise DataError(f"{where}: expected {expected}, got {row!r}, which is no list of numbers") from None
    if len(values) < 4 or not all(math.isfinite(value) for value in values):
        raise DataError(
            f"{where}: expected {expected}, four finite numbers at least, got {row!r}; mend or remove the line"
        )
    return values


def _is_zero_row(row: str) -> bool:
    return len(row.split()) >= 4 and all(part == "0" for part in row.split())


def _check_images(file: Path, records: list[Record]) -> None:
    missing = [record for record in records if not record.image.is_file()]
    if missing:
        raise DataError(
            f"{missing[0].origin}: no image at {missing[0].image} ({len(missing)} of {len(records)} images of "
            f"{file} are missing); check DATA.root_path and the image folders, or remove these lines"
        )
