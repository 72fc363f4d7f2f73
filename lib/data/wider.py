"""Face annotations as text -> records. Two formats are told apart by their first line.

The official WIDER FACE format (`*_bbx_gt.txt`): an image path, the number of faces, then `x y w h ...` a face; an image
without faces has the number 0 and may have one line of zeros. The other: `path| x1,y1,x2,y2,1 x1,y1,x2,y2,1 ...`, one
image a line.
"""

import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib.boxes import FloatArray
from lib.errors import DataError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """One annotated image.

    Attributes:
        name: the path as written in the annotation file.
        image: where the image is.
        boxes_xyxy_px: float32 [n, 4], n may be 0; every box has a positive width and height.
        origin: `file:line` of the annotation.

    """

    name: str
    image: Path
    boxes_xyxy_px: FloatArray
    origin: str


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
    parse = _parse_lines if "|" in numbered[0][1] else _parse_official

    records, dropped, first_dropped = [], 0, ""
    for name, number, boxes in parse(file, numbered):
        array = np.asarray([box for _, box in boxes], np.float32).reshape(-1, 4)
        positive = np.all(array[:, 2:] > array[:, :2], axis=1)
        if not positive.all():
            dropped += int((~positive).sum())
            first_dropped = first_dropped or f"{file}:{boxes[int(np.argmin(positive))][0]}"
        records.append(Record(name, Path(image_root) / name, array[positive], f"{file}:{number}"))
    if dropped:
        logger.warning("%s: %d boxes of zero or negative size dropped, the first at %s", file, dropped, first_dropped)
    faceless = sum(not len(record.boxes_xyxy_px) for record in records)
    if faceless:
        logger.info("%s: %d of %d images without faces", file, faceless, len(records))
    if check_images:
        _check_images(file, records)
    return records


# What a parser yields for an image: its name, its line, and (line, corners) for each box.
Parsed = tuple[str, int, list[tuple[int, list[float]]]]


def _parse_official(file: Path, numbered: list[tuple[int, str]]) -> Iterator[Parsed]:
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
            x, y, w, h = _numbers(f"{file}:{number}", row.split(), f"a face of {name!r} as `x y w h ...`", row)
            boxes.append((number, [x, y, x + w, y + h]))
        position += count
        if count == 0 and position < len(numbered) and _is_zero_row(numbered[position][1]):
            position += 1
        yield name, name_line, boxes


def _parse_lines(file: Path, numbered: list[tuple[int, str]]) -> Iterator[Parsed]:
    for number, line in numbered:
        name, bar, rest = line.partition("|")
        if not bar or not name.strip():
            raise DataError(f"{file}:{number}: expected `path| x1,y1,x2,y2,1 ...`, got {line!r}")
        where = f"{file}:{number}"
        expected = f"boxes of {name.strip()!r} as `x1,y1,x2,y2,1`"
        boxes = [(number, _numbers(where, group.split(","), expected, group)) for group in rest.split()]
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
