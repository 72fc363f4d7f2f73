"""Face annotations as text -> records; `lib.data.annotation_text` says which three formats there are."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib.arrays import BoolArray, FloatArray
from lib.data.annotation_text import Faces, parse, shown
from lib.errors import DataError
from lib.files import write_text

logger = logging.getLogger(__name__)

_SHOWN_PATH = 500  # of a path, which may be a line of anything
_FEW = 10  # boxes without a size are a slip, more of them than others a wrong format
_RELATIVE = 1.5  # corners that are fractions, and all below this, are no pixels


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
        landmarks_px: float32 [n, 5, 2], x, y of each face's left eye, right eye, nose, left and right corner of the
            mouth, as seen in the image; NaN for a face without. None: the format has none.

    """

    name: str
    image: Path
    boxes_xyxy_px: FloatArray
    origin: str
    invalid: BoolArray | None = None
    labelled: bool = True
    landmarks_px: FloatArray | None = None


def read_annotations(
    path: str | os.PathLike[str], image_root: str | os.PathLike[str], check_images: bool = True
) -> list[Record]:
    """Reads an annotation file: WIDER FACE's, RetinaFace's, which has landmarks, or lines `path| x1,y1,x2,y2,1 ...`.

    Faces whose box has no positive width and height are dropped; their number is logged as a warning.

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
    for name, number, boxes in parse(file):
        array, positive = _corners(boxes)
        invalid = np.asarray(boxes.invalid, np.bool_)
        landmarks = None if boxes.landmarks is None else boxes.landmarks.astype(np.float32)
        if not positive.all():
            dropped += int((~positive).sum())
            first_dropped = first_dropped or f"{file}:{boxes.lines[int(np.argmin(positive))]}"
            array, invalid = array[positive], invalid[positive]
            landmarks = None if landmarks is None else landmarks[positive]
        records.append(Record(name, root / name, array, f"{file}:{number}", invalid, landmarks_px=landmarks))
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
    for name, number, boxes in parse(file):
        if "|" in name:
            raise DataError(f"{file}:{number}: {name!r} has a | in it, which ends the path in the other format; rename")
        array, positive = _corners(boxes)
        kept = boxes.corners[positive].tolist()
        lines.append(" ".join([f"{name}|", *(",".join([*map(_shortest, corners), "1"]) for corners in kept)]))
        records.append(Record(name, images / name, array[positive], f"{file}:{number}"))
        faces, dropped = faces + len(kept), dropped + len(positive) - len(kept)
        faceless += not kept
    _check_twice(records)
    _check_images(file, records)
    write_text(output, "\n".join(lines) + "\n")
    return SplitCounts(len(records), faceless, faces, dropped)


def _shortest(value: float) -> str:
    """The shortest text that reads back as the same number."""
    return str(int(value)) if value.is_integer() else repr(value)


def _corners(boxes: Faces) -> tuple[FloatArray, BoolArray]:
    """float32 [n, 4] xyxy, and [n] whether width and height are positive."""
    corners = boxes.corners.astype(np.float32)
    return corners, np.all(corners[:, 2:] > corners[:, :2], axis=1)


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
                f"{record.origin}: {shown(record.name)} is annotated at {other.origin} already; put all its boxes "
                "into one of the two, and remove the other"
            )


def is_file(path: Path) -> bool:
    """Whether there is such a file, whatever the path is."""
    try:
        return path.is_file()
    except OSError:  # a name too long for any file
        return False


def _check_images(file: Path, records: list[Record]) -> None:
    missing = [record for record in records if not is_file(record.image)]
    if missing:
        where = str(missing[0].image)[:_SHOWN_PATH]
        raise DataError(
            f"{missing[0].origin}: no image at {where} ({len(missing)} of {len(records)} images of {file} are "
            "missing); check DATA.root_path and the image folders, or remove these lines"
        )
