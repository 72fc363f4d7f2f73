"""Face annotations as text -> records. Two formats are told apart by their first line.

The official WIDER FACE format (`*_bbx_gt.txt`): an image path, the number of faces, then `x y w h ...` a face, of which
the eighth number, if it is there, says 1 for an invalid face; an image without faces has the number 0 and may have one
line of zeros. The other: `path| x1,y1,x2,y2,1 x1,y1,x2,y2,1 ...`, one image a line.
"""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lib.arrays import BoolArray, FloatArray
from lib.data.numbers import plain_numbers
from lib.errors import DataError
from lib.files import write_text

logger = logging.getLogger(__name__)

_SHOWN = 80  # characters of a line in a message
_SHOWN_PATH = 500  # of a path, which may be a line of anything
_FEW = 10  # boxes without a size are a slip, more of them than others a wrong format
_RELATIVE = 1.5  # corners that are fractions, and all below this, are no pixels
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
        DataError: the file is missing, empty or malformed, its boxes are no pixels, an image is annotated twice, or
            images are missing; names the line and the remedy.

    """
    file, root = Path(path), Path(image_root)
    records, dropped, first_dropped = list[Record](), 0, ""
    for name, number, boxes in _parse(file):
        array, positive = _corners(boxes)
        invalid = np.asarray(boxes.invalid, np.bool_)
        if not positive.all():
            dropped += int((~positive).sum())
            first_dropped = first_dropped or f"{file}:{boxes.lines[int(np.argmin(positive))]}"
            array, invalid = array[positive], invalid[positive]
        records.append(Record(name, root / name, array, f"{file}:{number}", invalid))
    _check_units(file, records, dropped)
    if dropped:
        logger.warning("%s: %d boxes of zero or negative size dropped, the first at %s", file, dropped, first_dropped)
    faceless = sum(not len(record.boxes_xyxy_px) for record in records)
    if faceless:
        logger.info("%s: %d of %d images without faces", file, faceless, len(records))
    _check_twice(records)
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
        kept = boxes.corners[positive].tolist()
        lines.append(" ".join([f"{name}|", *(",".join([*map(_shortest, corners), "1"]) for corners in kept)]))
        records.append(Record(name, images / name, array[positive], f"{file}:{number}"))
        faces, dropped = faces + len(kept), dropped + len(positive) - len(kept)
        faceless += not kept
    _check_images(file, records)
    write_text(output, "\n".join(lines) + "\n")
    return SplitCounts(len(records), faceless, faces, dropped)


def _shortest(value: float) -> str:
    """The shortest text that reads back as the same number."""
    return str(int(value)) if value.is_integer() else repr(value)


class _Boxes(NamedTuple):
    corners: FloatArray  # float64 [n, 4] xyxy, as they are written
    lines: list[int]
    invalid: list[bool]


_Parsed = tuple[str, int, _Boxes]  # an image: its name, its line, its boxes


def _parse(file: Path) -> Iterator[_Parsed]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise DataError(f"{file}: no such annotation file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read as text ({error})") from error
    numbered = [(number, text) for number, line in enumerate(lines, start=1) if (text := line.strip())]
    if not numbered:
        raise DataError(f"{file}: empty; {_EXPECTED}")
    announced = len(numbered) > 1 and numbered[1][1].isdecimal()
    if not announced and (other := _other_format(numbered[0][1])):
        raise DataError(f"{file}: {other}; {_EXPECTED}")
    yield from (_parse_lines if "|" in numbered[0][1] else _parse_official)(file, numbered)


_EXPECTED = "expected WIDER FACE annotations (*_bbx_gt.txt) or lines `path| x1,y1,x2,y2,1 ...` in pixels"


def _other_format(first: str) -> str:
    """What a file is instead, by its first line, and how it becomes one of ours; "" where it may be one."""
    write = "write a line `path| x1,y1,x2,y2,1 ...` an image, with"
    if "|" in first:
        return ""
    if first[0] in "{[":
        return f"JSON, as COCO has it; {write} x2 = x + w and y2 = y + h of each bbox [x, y, w, h]"
    if first[0] == "<":
        return f"XML, as Pascal VOC has it, a file an image; {write} xmin,ymin,xmax,ymax of each bndbox"
    parts = first.split()
    if len(parts) == 5 and all(_is_number(part) for part in parts):
        return (
            f"rows of five numbers, as YOLO has them (class, centre, size; shares of the sides); {write} "
            "x1 = (cx - w / 2) * width, x2 = (cx + w / 2) * width in pixels, y likewise"
        )
    if first.count(",") >= 3:
        return f"comma-separated values (CSV); {write} the corners of the rows of that image"
    return ""


def _is_number(text: str) -> bool:
    try:
        plain_numbers([text])
    except ValueError:
        return False
    return True


def _shown(text: str) -> str:
    """A line for a message."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def _corners(boxes: _Boxes) -> tuple[FloatArray, BoolArray]:
    """float32 [n, 4] xyxy, and [n] whether width and height are positive."""
    corners = boxes.corners.astype(np.float32)
    return corners, np.all(corners[:, 2:] > corners[:, :2], axis=1)


def _parse_official(file: Path, numbered: list[tuple[int, str]]) -> Iterator[_Parsed]:
    position = 0
    while position < len(numbered):
        name_line, name = numbered[position]
        if position + 1 == len(numbered):
            raise DataError(f"{file}:{name_line}: the file ends after {_shown(name)}; expected the number of faces")
        count_line, text = numbered[position + 1]
        if not (text.isascii() and text.isdecimal()):
            raise DataError(f"{file}:{count_line}: expected the number of faces of {_shown(name)}, got {_shown(text)}")
        count = int(text)
        position += 2
        rows = numbered[position : position + count]
        if len(rows) < count:
            raise DataError(
                f"{file}:{count_line}: {_shown(name)} announces {count} faces, but the file ends after {len(rows)}"
            )
        split = [row.split() for _, row in rows]
        table = _table(split)
        if table is None:
            expected = f"a face of {_shown(name)} as `x y w h ...`"
            pairs = zip(rows, split, strict=True)
            found = [_numbers(f"{file}:{number}", parts, expected, row)[:4] for (number, row), parts in pairs]
            table = np.asarray(found, np.float64).reshape(-1, 4)
        corners = table[:, :4]
        corners[:, 2:] += corners[:, :2]
        invalid = [parts[_INVALID_COLUMN : _INVALID_COLUMN + 1] == ["1"] for parts in split]
        position += count
        if count == 0 and position < len(numbered) and _is_zero_row(numbered[position][1]):
            position += 1
        yield name, name_line, _Boxes(corners, [number for number, _ in rows], invalid)


def _parse_lines(file: Path, numbered: list[tuple[int, str]]) -> Iterator[_Parsed]:
    for number, line in numbered:
        name, bar, rest = line.partition("|")
        if not bar or not name.strip():
            raise DataError(f"{file}:{number}: expected `path| x1,y1,x2,y2,1 ...`, got {_shown(line)}")
        groups = rest.split()
        split = [group.split(",") for group in groups]
        table = _table(split)
        if table is None or table.shape[1] != 5 or (table[:, 4] != 1).any():
            where, expected = f"{file}:{number}", f"boxes of {_shown(name.strip())} as `x1,y1,x2,y2,1`"
            found = []
            for group, parts in zip(groups, split, strict=True):
                values = _numbers(where, parts, expected, group)
                if len(values) != 5 or values[4] != 1:
                    raise DataError(
                        f"{where}: expected {expected}, the fifth number 1, got {_shown(group)}; cut short?"
                    )
                found.append(values)
            table = np.asarray(found, np.float64).reshape(-1, 5)
        yield name.strip(), number, _Boxes(table[:, :4], [number] * len(table), [False] * len(table))


def _table(rows: list[list[str]]) -> FloatArray | None:
    """All rows' numbers, judged at once; None where there are none, or one has to be looked at by itself."""
    width = len(rows[0]) if rows else 0
    if width < 4 or any(len(row) != width for row in rows):
        return None
    try:
        return np.asarray(plain_numbers([part for row in rows for part in row])).reshape(-1, width)
    except ValueError:
        return None


def _numbers(where: str, parts: list[str], expected: str, row: str) -> list[float]:
    """The parts as numbers, four at least."""
    try:
        values = plain_numbers(parts)
    except ValueError as error:
        raise DataError(
            f"{where}: expected {expected}, plain decimal numbers, got {_shown(row)} ({error}); mend or remove the line"
        ) from None
    if len(values) < 4:
        raise DataError(f"{where}: expected {expected}, four numbers at least, got {_shown(row)}; cut short?")
    return values


def _is_zero_row(row: str) -> bool:
    return len(row.split()) >= 4 and all(part == "0" for part in row.split())


def _check_units(file: Path, records: list[Record], dropped: int) -> None:
    """Raises DataError where the boxes of the whole file cannot be corners in pixels."""
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *(record.boxes_xyxy_px for record in records)])
    if dropped > max(_FEW, len(boxes)):
        raise DataError(
            f"{file}: {dropped} of {dropped + len(boxes)} boxes have no positive width and height; are they x, y, "
            "width and height where corners are expected?"
        )
    if are_relative(boxes):
        raise DataError(
            f"{file}: the coordinates of all {len(boxes)} boxes lie within 0..{boxes.max():g}; they seem to be shares "
            "of the image's sides: multiply them by its width and height in pixels"
        )


def are_relative(boxes_xyxy: FloatArray) -> bool:
    """Whether boxes [n, 4] seem to be shares of the sides and no pixels."""
    return bool(len(boxes_xyxy) and boxes_xyxy.max() <= _RELATIVE and (boxes_xyxy % 1 != 0).any())


def _check_twice(records: list[Record]) -> None:
    first: dict[str, Record] = {}
    for record in records:
        other = first.setdefault(os.path.normpath(record.name), record)
        if other is not record:
            raise DataError(
                f"{record.origin}: {_shown(record.name)} is annotated at {other.origin} already; put all its boxes "
                "into one of the two, and remove the other"
            )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long for any file
        return False


def _check_images(file: Path, records: list[Record]) -> None:
    missing = [record for record in records if not _is_file(record.image)]
    if missing:
        where = str(missing[0].image)[:_SHOWN_PATH]
        raise DataError(
            f"{missing[0].origin}: no image at {where} ({len(missing)} of {len(records)} images of {file} are "
            "missing); check DATA.root_path and the image folders, or remove these lines"
        )
