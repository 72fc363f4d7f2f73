"""Annotation files as text -> names, boxes and landmarks as they are written. The first line decides the format.

The official WIDER FACE format (`*_bbx_gt.txt`): an image path, the number of faces, then `x y w h ...` a face, of which
the eighth number, if it is there, says 1 for an invalid face; an image without faces has the number 0 and may have one
line of zeros. RetinaFace's (`label.txt`): `# path`, then a line a face, `x y w h`, or with five landmarks `x y flag`
behind it, and perhaps one number more. The third: `path| x1,y1,x2,y2,1 x1,y1,x2,y2,1 ...`, one image a line.
"""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lib.arrays import FloatArray
from lib.data.numbers import plain_numbers
from lib.errors import DataError

LANDMARKS = 5  # left eye, right eye, nose, left and right corner of the mouth, as seen in the image

MOST_DIGITS = 9  # of a number of faces

_SHOWN = 80  # characters of a line in a message
_INVALID_COLUMN = 7  # x y w h blur expression illumination invalid occlusion pose
_IMAGE = "# "  # what the line of an image begins with in RetinaFace's format
_WITH_POINTS = 4 + 3 * LANDMARKS
_WIDTHS = (4, _WITH_POINTS, _WITH_POINTS + 1)  # numbers of a face there; the last of 20 says how clear it is
_ABSENT = -1  # the numbers of a landmark that is not known


class Faces(NamedTuple):
    """What is written of an image's faces, n of them.

    Attributes:
        corners: float64 [n, 4] xyxy.
        lines: [n], of the file.
        invalid: [n], whether they are flagged.
        landmarks: float64 [n, 5, 2] x, y; NaN for a face of which not all five are known. None: the format has none.

    """

    corners: FloatArray
    lines: list[int]
    invalid: list[bool]
    landmarks: FloatArray | None = None


Parsed = tuple[str, int, Faces]  # an image: its name, its line, its faces


def parse(file: Path) -> Iterator[Parsed]:
    """The images of a file, in turn; DataError with line and remedy where it cannot be read."""
    try:
        # Whatever ends a line is \n by now; what else `splitlines` takes for an end may be in a name.
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise DataError(f"{file}: no such annotation file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read as text ({error})") from error
    numbered = [(number, text) for number, line in enumerate(lines, start=1) if (text := line.strip())]
    if not numbered:
        raise DataError(f"{file}: empty; {_EXPECTED}")
    first = numbered[0][1]
    announced = len(numbered) > 1 and numbered[1][1].isdecimal()
    if "|" in first:
        yield from _parse_lines(file, numbered)
    elif first.startswith(_IMAGE):
        yield from _parse_retinaface(file, numbered)
    elif not announced and (other := _other_format(first)):
        raise DataError(f"{file}: {other}; {_EXPECTED}")
    else:
        yield from _parse_official(file, numbered)


_EXPECTED = (
    "expected WIDER FACE annotations (*_bbx_gt.txt), RetinaFace's (label.txt) or lines `path| x1,y1,x2,y2,1 ...`, in "
    "pixels"
)


def _other_format(first: str) -> str:
    """What a file is instead, by its first line, and how it becomes one of ours; "" where it may be one."""
    write = "write a line `path| x1,y1,x2,y2,1 ...` an image, with"
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


def shown(text: str) -> str:
    """A line for a message."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def _parse_official(file: Path, numbered: list[tuple[int, str]]) -> Iterator[Parsed]:
    position = 0
    while position < len(numbered):
        name_line, name = numbered[position]
        if position + 1 == len(numbered):
            raise DataError(f"{file}:{name_line}: the file ends after {shown(name)}; expected the number of faces")
        count_line, text = numbered[position + 1]
        if not (text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS):
            raise DataError(f"{file}:{count_line}: expected the number of faces of {shown(name)}, got {shown(text)}")
        count = int(text)
        position += 2
        rows = numbered[position : position + count]
        if len(rows) < count:
            raise DataError(
                f"{file}:{count_line}: {shown(name)} announces {count} faces, but the file ends after {len(rows)}"
            )
        split = [row.split() for _, row in rows]
        table = _table(split)
        if table is None:
            expected = f"a face of {shown(name)} as `x y w h ...`"
            pairs = zip(rows, split, strict=True)
            found = [_numbers(f"{file}:{number}", parts, expected, row)[:4] for (number, row), parts in pairs]
            table = np.asarray(found, np.float64).reshape(-1, 4)
        corners = table[:, :4]
        corners[:, 2:] += corners[:, :2]
        invalid = [parts[_INVALID_COLUMN : _INVALID_COLUMN + 1] == ["1"] for parts in split]
        position += count
        if count == 0 and position < len(numbered) and _is_zero_row(numbered[position][1]):
            position += 1
        yield name, name_line, Faces(corners, [number for number, _ in rows], invalid)


def _parse_retinaface(file: Path, numbered: list[tuple[int, str]]) -> Iterator[Parsed]:
    starts = [place for place, (_, text) in enumerate(numbered) if text.startswith(_IMAGE)]
    for start, end in pairwise([*starts, len(numbered)]):
        (name_line, title), rows = numbered[start], numbered[start + 1 : end]
        name = title.removeprefix(_IMAGE).strip()
        expected = f"a face of {shown(name)} as `x y w h` or `x y w h` and five landmarks `x y flag`"
        split = [row.split() for _, row in rows]
        table = _table(split)
        if table is None or table.shape[1] not in _WIDTHS:
            found = []
            for (number, row), parts in zip(rows, split, strict=True):
                values = _numbers(f"{file}:{number}", parts, expected, row)
                if len(values) not in _WIDTHS:
                    raise DataError(
                        f"{file}:{number}: expected {expected}, 4, 19 or 20 numbers, got {len(values)}: {shown(row)}; "
                        "mend or remove the line"
                    )
                found.append((values + [_ABSENT] * _WITH_POINTS)[:_WITH_POINTS])
            table = np.asarray(found, np.float64).reshape(-1, _WITH_POINTS)
        corners, points = table[:, :4], table[:, 4:_WITH_POINTS]
        corners[:, 2:] += corners[:, :2]
        if not points.size:
            points = np.full((len(table), 3 * LANDMARKS), float(_ABSENT))
        points = points.reshape(-1, LANDMARKS, 3)
        absent = points == _ABSENT
        half = (absent.any(axis=2) & ~absent.all(axis=2)).any(axis=1)
        if half.any():
            number, row = rows[int(half.argmax())]
            raise DataError(
                f"{file}:{number}: expected {expected}, with -1 for all three of a landmark or for none, got "
                f"{shown(row)}; mend it, or write -1 for all fifteen"
            )
        landmarks = np.where(absent.any(axis=(1, 2))[:, None, None], np.nan, points[..., :2])
        yield name, name_line, Faces(corners, [number for number, _ in rows], [False] * len(rows), landmarks)


def _parse_lines(file: Path, numbered: list[tuple[int, str]]) -> Iterator[Parsed]:
    for number, line in numbered:
        name, bar, rest = line.partition("|")
        if not bar or not name.strip():
            raise DataError(f"{file}:{number}: expected `path| x1,y1,x2,y2,1 ...`, got {shown(line)}")
        groups = rest.split()
        split = [group.split(",") for group in groups]
        table = _table(split)
        if table is None or table.shape[1] != 5 or (table[:, 4] != 1).any():
            where, expected = f"{file}:{number}", f"boxes of {shown(name.strip())} as `x1,y1,x2,y2,1`"
            found = []
            for group, parts in zip(groups, split, strict=True):
                values = _numbers(where, parts, expected, group)
                if len(values) != 5 or values[4] != 1:
                    raise DataError(f"{where}: expected {expected}, the fifth number 1, got {shown(group)}; cut short?")
                found.append(values)
            table = np.asarray(found, np.float64).reshape(-1, 5)
        yield name.strip(), number, Faces(table[:, :4], [number] * len(table), [False] * len(table))


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
            f"{where}: expected {expected}, plain decimal numbers, got {shown(row)} ({error}); mend or remove the line"
        ) from None
    if len(values) < 4:
        raise DataError(f"{where}: expected {expected}, four numbers at least, got {shown(row)}; cut short?")
    return values


def _is_zero_row(row: str) -> bool:
    return len(row.split()) >= 4 and all(part == "0" for part in row.split())
