"""Faces that detections are scored against: the official WIDER FACE ground truth, or annotations of one's own.

The official files are `wider_face_val.mat` (events, images, faces) and `wider_{easy,medium,hard}_val.mat` (which of
the faces count). They come with the `eval_tools` download of the WIDER FACE web page.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat

from lib.arrays import FloatArray, IntArray
from lib.data.annotations import read_annotations
from lib.errors import DataError
from lib.evaluation.prediction_files import prediction_name

SUBSETS = ("easy", "medium", "hard")
ALL_FACES = "all"  # the one subset of an annotation file


@dataclass(frozen=True)
class GroundTruth:
    """The faces of n images, one image after another.

    Attributes:
        names: per image, where its prediction file lies in a result folder, without `.txt`: `event/image`.
        faces_xyxy_px: float64 [m, 4] as annotated, with x2 = x + w.
        starts: int64 [n + 1]; image i has the faces starts[i]:starts[i + 1].
        counted: for each subset, bool [m]: the faces that count. The others are neither hit nor miss.

    """

    names: tuple[str, ...]
    faces_xyxy_px: FloatArray
    starts: IntArray
    counted: Mapping[str, NDArray[np.bool_]]

    def select(self, images: NDArray[np.bool_]) -> "GroundTruth":
        """The part of the images where `images`, bool [n], is true."""
        sizes = np.diff(self.starts)
        faces = np.repeat(images, sizes)
        return GroundTruth(
            tuple(name for name, kept in zip(self.names, images, strict=True) if kept),
            self.faces_xyxy_px[faces],
            starts_of(sizes[images]),
            {subset: counted[faces] for subset, counted in self.counted.items()},
        )


def starts_of(sizes: IntArray) -> IntArray:
    """Where each of n consecutive groups starts, and where the last one ends: [n] -> int64 [n + 1]."""
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def read_ground_truth(folder: str | os.PathLike[str]) -> GroundTruth:
    """Reads the four official .mat files.

    Raises:
        DataError: no such folder, a file is missing or is not this ground truth; names it.

    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; expected the ground_truth folder of WIDER FACE's eval_tools")
    file = root / "wider_face_val.mat"
    content = _load(file, ("event_list", "file_list", "face_bbx_list"))
    events = [_text(file, "event_list", cell) for cell in _cells(file, content, "event_list")]
    names = [[_text(file, "file_list", cell) for cell in group] for group in _groups(file, content, "file_list")]
    boxes = _groups(file, content, "face_bbx_list")
    layout = [len(group) for group in names]
    if len(layout) != len(events) or [len(group) for group in boxes] != layout:
        raise DataError(f"{file}: event_list, file_list and face_bbx_list do not have the same events and images")
    faces_xywh = [_faces(file, cell) for group in boxes for cell in group]
    starts = starts_of(np.asarray([len(faces) for faces in faces_xywh], np.int64))
    x, y, w, h = np.concatenate([np.zeros((0, 4)), *faces_xywh]).T
    return GroundTruth(
        tuple(f"{event}/{name}" for event, group in zip(events, names, strict=True) for name in group),
        np.column_stack([x, y, x + w, y + h]),
        starts,
        {subset: _counted(root / f"wider_{subset}_val.mat", layout, starts) for subset in SUBSETS},
    )


def read_annotated_truth(path: str | os.PathLike[str]) -> GroundTruth:
    """Ground truth of an annotation file in a format of `lib.data.annotations`; all faces count, as subset `all`.

    Raises:
        DataError: the file is missing or malformed, names what can be no image, or two of its images would share one
            prediction file.

    """
    records = read_annotations(path, "", check_images=False)
    names: dict[str, str] = {}
    for record in records:
        name = prediction_name(record.name)
        if not name:
            raise DataError(f"{record.origin}: {record.name!r} names no image; mend or remove it")
        if name in names:
            raise DataError(
                f"{record.origin}: {record.name!r} has the prediction file {name}.txt, as has the image at "
                f"{names[name]}; rename or remove one of them"
            )
        names[name] = record.origin
    faces = np.concatenate([np.zeros((0, 4)), *(record.boxes_xyxy_px.astype(np.float64) for record in records)])
    sizes = np.asarray([len(record.boxes_xyxy_px) for record in records], np.int64)
    return GroundTruth(tuple(names), faces, starts_of(sizes), {ALL_FACES: np.ones(len(faces), np.bool_)})


def _load(file: Path, variables: tuple[str, ...]) -> dict[str, NDArray[np.generic]]:
    try:
        with file.open("rb") as opened:
            content = loadmat(opened, variable_names=variables)
    except FileNotFoundError:
        raise DataError(
            f"{file}: no such file; the ground_truth folder of WIDER FACE's eval_tools download has it"
        ) from None
    except Exception as error:  # a damaged file makes the reader fail in many ways
        raise DataError(f"{file}: cannot be read as a MATLAB file ({error}); download it again") from error
    for variable in variables:
        if variable not in content:
            raise DataError(f"{file}: is not WIDER FACE ground truth: it has no {variable}")
    return content


def _cells(file: Path, content: dict[str, NDArray[np.generic]], variable: str) -> list[NDArray[np.generic]]:
    return _unpack(file, variable, content[variable])


def _groups(file: Path, content: dict[str, NDArray[np.generic]], variable: str) -> list[list[NDArray[np.generic]]]:
    """For each event a list with one array an image."""
    return [_unpack(file, variable, group) for group in _cells(file, content, variable)]


def _unpack(file: Path, variable: str, cells: NDArray[np.generic]) -> list[NDArray[np.generic]]:
    if not isinstance(cells, np.ndarray) or cells.dtype != np.object_:
        raise DataError(f"{file}: is not WIDER FACE ground truth: {variable} is no cell array of cell arrays")
    return list(cells.ravel())


def _text(file: Path, variable: str, cell: NDArray[np.generic]) -> str:
    # A name lies in a cell of its own in file_list and directly in event_list.
    value = cell.ravel()[0] if isinstance(cell, np.ndarray) and cell.size == 1 else cell
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.ravel()[0]
    if not isinstance(value, str):
        raise DataError(f"{file}: is not WIDER FACE ground truth: {variable} holds {value!r} instead of a name")
    return str(value)


def _faces(file: Path, cell: NDArray[np.generic]) -> FloatArray:
    """[m, 4] x, y, w, h of one image."""
    if not isinstance(cell, np.ndarray) or cell.dtype.kind not in "iuf" or (cell.size and cell.shape[1:] != (4,)):
        raise DataError(f"{file}: is not WIDER FACE ground truth: face_bbx_list holds no rows of x, y, w, h")
    return cell.astype(np.float64).reshape(-1, 4)


def _counted(file: Path, layout: list[int], starts: IntArray) -> NDArray[np.bool_]:
    groups = _groups(file, _load(file, ("gt_list",)), "gt_list")
    if [len(group) for group in groups] != layout:
        raise DataError(f"{file}: gt_list does not have the events and images of wider_face_val.mat")
    counted = np.zeros(starts[-1], np.bool_)
    cells = (cell for group in groups for cell in group)
    for first, end, cell in zip(starts[:-1].tolist(), starts[1:].tolist(), cells, strict=True):
        if not isinstance(cell, np.ndarray) or cell.dtype.kind not in "iuf":
            raise DataError(f"{file}: is not WIDER FACE ground truth: gt_list holds no numbers")
        if not cell.size:
            continue
        indices = cell.ravel().astype(np.int64)
        if indices.min() < 1 or indices.max() > end - first:
            raise DataError(f"{file}: gt_list names a face {indices.max()} of an image with {end - first} faces")
        counted[first + indices - 1] = True
    return counted
