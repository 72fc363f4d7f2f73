"""Detections as text files in the official WIDER FACE layout -> arrays.

`<result>/<event>/<image>.txt` holds the image's name, the number of boxes, then `x y w h score` a line.
"""

import logging
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from lib.arrays import FloatArray, IntArray
from lib.data.annotation_text import MOST_DIGITS
from lib.data.numbers import LIMIT, is_plain
from lib.errors import DataError
from lib.evaluation.shards import Shard, missing_shards, missing_shards_in
from lib.limits import limit, raising

logger = logging.getLogger(__name__)

_ENOUGH = 20  # detections that a suspicion about all of them needs


@dataclass(frozen=True)
class Predictions:
    """The detections of n images, one image after another, in file order.

    Attributes:
        boxes_xyxy_px: float64 [p, 4] with x2 = x + w of the file.
        scores: float64 [p], of any scale.
        starts: int64 [n + 1]; image i has the boxes starts[i]:starts[i + 1].

    """

    boxes_xyxy_px: FloatArray
    scores: FloatArray
    starts: IntArray


def prediction_name(image_name: str) -> str:
    """Path of an image's prediction file in a result folder, without `.txt`, from the image's path in annotations.

    "" where the path ends in no name, as `/`, `.` and `a/..` do.
    """
    path = PurePosixPath(image_name.replace("\\", "/"))
    if path.name in ("", ".."):
        return ""
    return "/".join(part for part in path.with_suffix("").parts if part not in (path.anchor, ".."))


def read_predictions(
    source: str | os.PathLike[str], names: Sequence[str], only_predicted: bool = False
) -> tuple[Predictions, NDArray[np.bool_]]:
    """Reads the prediction files of `names`; other files are left alone.

    Args:
        source: the result folder, or a .zip of it.
        names: per image, its file without `.txt`, as `prediction_name` gives it.
        only_predicted: whether images without a prediction file are left out, rather than an error. Where a whole
            shard is missing, they are an error all the same.

    Returns:
        The detections of the images that have a file, and which of the images, bool [n], these are.

    Raises:
        DataError: there is no such folder, a file is missing, or none of the images has one; a file is truncated or
            malformed, which names it and the line; or the coordinates are shares of the sides.

    """
    rows: list[FloatArray] = []
    present = np.zeros(len(names), np.bool_)
    with _opened(Path(source), names) as (read, missing):
        for index, name in enumerate(names):
            text = read(f"{name}.txt")
            if text is not None:
                present[index] = True
                rows.append(parse_predictions(text, f"{source}/{name}.txt"))
        if not present.all():
            _require_all_shards(source, missing(), names, present)
    if not present.any():
        raise DataError(_nothing_found(Path(source), names))
    if not present.all() and not only_predicted:
        first = names[int(np.argmin(present))]
        raise DataError(
            f"{source}: no prediction file {first}.txt ({int((~present).sum())} of {len(names)} images have none); "
            "run the detector on all images, or score only the predicted ones with --only_predicted"
        )
    starts = np.concatenate([[0], np.cumsum([len(boxes) for boxes in rows])]).astype(np.int64)
    every = np.concatenate(rows)
    x, y, w, h, scores = every.T
    # All at once: file by file it would cost more than reading them.
    unsound = (np.abs(every[:, :4]) > LIMIT).any(axis=1) | (w < 0) | (h < 0)
    if unsound.any():
        place = int(unsound.argmax())
        file = int(np.searchsorted(starts, place, side="right")) - 1
        raise DataError(
            f"{source}/{np.asarray(names)[present][file]}.txt:{place - starts[file] + 3}: a width or height is "
            f"negative, or a number beyond {LIMIT:,.0f}; expected `x y w h score`; got {every[place].tolist()}"
        )
    _check_meaning(source, every)
    return Predictions(np.column_stack([x, y, x + w, y + h]), scores.copy(), starts), present


def _require_all_shards(
    source: str | os.PathLike[str], missing: Sequence[Shard], names: Sequence[str], present: NDArray[np.bool_]
) -> None:
    """Raises DataError where a result that was to be made in shards lacks some."""
    if missing:
        raise DataError(
            f"{source}: shard {', '.join(map(str, missing))} is missing, or has not come to its end "
            f"({int((~present).sum())} of {len(names)} images have no prediction file); run tools/wider.py with "
            f"--shard {missing[0]}{' and so on' if len(missing) > 1 else ''}, or without --shard for all that is left"
        )


def _check_meaning(source: str | os.PathLike[str], rows: FloatArray) -> None:
    """Looks at all detections [n, 5] together, whether they are x, y, w, h in pixels and then a score."""
    if not len(rows):
        return
    x, y, w, h, score = rows.T
    wanted = "expected `x y w h score`, a box's upper left corner, width and height in pixels of the image"
    if rows[:, :4].max() <= 2 and (rows[:, :4] % 1 != 0).any():
        raise DataError(
            f"{source}: no coordinate of the {len(rows)} detections is above {rows[:, :4].max():g}; they seem to be "
            f"shares of the image's sides; {wanted}"
        )
    if len(rows) < _ENOUGH:
        return
    if 0 <= x.min() <= x.max() <= 1 < np.median(score):
        logger.warning("%s: the first numbers are all in 0..1; is the score first? %s", source, wanted)
    elif (w > x).all() and (h > y).all():
        logger.warning("%s: are the third and fourth numbers x2 and y2? %s", source, wanted)


def parse_predictions(text: bytes, origin: str) -> FloatArray:
    """Content of one prediction file -> float64 [n, 5]: x, y, w, h, score.

    Raises:
        DataError: not in the layout above; `origin` and the line are named.

    """
    lines = text.rstrip().split(b"\n")
    if len(lines) < 2 or not lines[1].strip().isdigit() or len(lines[1].strip()) > MOST_DIGITS:
        got = _shown(lines[1]) if len(lines) > 1 else "the end of the file"
        raise DataError(f"{origin}:2: expected the number of boxes, got {got}; write the file again")
    count = int(lines[1])
    rows = [line.split() for line in lines[2:]]
    if len(rows) == count and set(map(len, rows)) <= {5} and is_plain(b"".join(lines[2:])):
        try:
            values = np.fromiter(map(float, chain.from_iterable(rows)), np.float64, 5 * count)
        except ValueError:
            pass
        else:
            if np.isfinite(values).all():
                return values.reshape(-1, 5)
    raise _malformed(origin, count, lines[2:])


def _shown(line: bytes) -> str:
    return repr(line[:80].decode(errors="replace"))


def _malformed(origin: str, count: int, lines: list[bytes]) -> DataError:
    """Says which line of a file that did not parse is wrong."""
    for number, line in enumerate(lines, start=3):
        try:
            values = [float(part) for part in line.split()] if is_plain(line) else []
        except ValueError:
            values = []
        if len(values) != 5 or not np.isfinite(values).all():
            return DataError(f"{origin}:{number}: expected five finite numbers `x y w h score`, got {_shown(line)}")
    return DataError(
        f"{origin}:{len(lines) + 2}: line 2 announces {count} boxes, but the file ends after {len(lines)}; "
        "write it again"
    )


# Gives the content of a file by its path relative to the result folder; None where there is none.
Reader = Callable[[str], bytes | None]
# Which shards are still to come.
Missing = Callable[[], list[Shard]]


@contextmanager
def _opened(source: Path, names: Sequence[str]) -> Iterator[tuple[Reader, Missing]]:
    if source.is_dir():
        yield _folder_reader(source), lambda: missing_shards(source)
    elif source.is_file() and zipfile.is_zipfile(source):
        try:
            archive = zipfile.ZipFile(source)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise DataError(f"{source}: a damaged .zip ({error}); pack it again") from error
        with archive:
            yield _zip_reader(source, archive, names)
    else:
        raise DataError(f"{source}: no such folder of prediction files, nor a .zip of one")


def _folder_reader(folder: Path) -> Reader:
    prefix = f"{folder}{os.sep}"

    def read(relative: str) -> bytes | None:
        try:
            with open(prefix + relative, "rb", buffering=0) as file:  # noqa: PTH123 a Path a file costs more than its parsing
                return file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DataError(f"{prefix}{relative}: cannot be read ({error})") from error

    return read


def _zip_reader(source: Path, archive: zipfile.ZipFile, names: Sequence[str]) -> tuple[Reader, Missing]:
    entries: dict[str, zipfile.ZipInfo] = {}  # some programs for Windows write \\ between folders
    for entry in archive.infolist():
        if entries.setdefault(entry.filename.replace("\\", "/"), entry) is not entry:
            raise DataError(f"{source}: has two entries {entry.filename}; pack it again")
    # A folder that was packed whole puts its own name before every entry.
    ends = {f"{name}.txt" for name in names}
    prefixes = sorted({entry[: -len(end)] for entry in entries for end in _tails(entry) if end in ends})
    if len(prefixes) > 1:
        first, second = (prefix or "its top" for prefix in prefixes[:2])
        raise DataError(f"{source}: holds several results, in {first} and {second}; pack each on its own")

    top, most = prefixes[0] if prefixes else "", limit("max_prediction_bytes")

    def read(relative: str) -> bytes | None:
        name = f"{top}{relative}"
        if name not in entries:
            return None
        if entries[name].file_size > most:
            raise DataError(
                f"{source}: {name} unpacks to {entries[name].file_size:,} bytes; no prediction file does; if this one "
                f"shall, {raising('max_prediction_bytes')}"
            )
        try:
            return archive.read(entries[name])
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError, zlib.error) as error:
            raise DataError(f"{source}: {name} cannot be unpacked ({error})") from error

    def missing() -> list[Shard]:
        within = (name.removeprefix(top) for name in entries if name.startswith(top))
        return missing_shards_in(within, read, source)

    return read, missing


def _tails(entry: str) -> Iterator[str]:
    """`a/b/c` -> `a/b/c`, `b/c`, `c`."""
    yield entry
    while "/" in entry:
        entry = entry.partition("/")[2]
        yield entry


def _nothing_found(source: Path, names: Sequence[str]) -> str:
    if not names:
        return "the ground truth holds no image"
    message = f"{source}: no prediction file for any of the {len(names)} images; expected {names[0]}.txt and so on"
    if source.is_dir():
        for child in sorted(source.iterdir()):
            if child.is_dir() and any((child / f"{name}.txt").is_file() for name in names):
                return f"{message}; {child} has them"
    return message
