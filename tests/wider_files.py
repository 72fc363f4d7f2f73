"""Small ground truth and result folders for the tests of the WIDER FACE evaluation."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.io import savemat

from lib.arrays import FloatArray
from lib.evaluation.ground_truth import SUBSETS, GroundTruth, starts_of
from lib.evaluation.prediction_files import Predictions

Rows = Sequence[Sequence[float]]


def cell(values: Sequence[object]) -> object:
    """A MATLAB cell array, [n, 1]."""
    cells = np.empty((len(values), 1), object)
    for index, value in enumerate(values):
        cells[index, 0] = value
    return cells


def write_truth(
    folder: Path, faces_xywh: Mapping[str, Mapping[str, Rows]], counted: Mapping[str, Mapping[str, Sequence[int]]]
) -> Path:
    """The four .mat files from event -> image -> faces, and subset -> image -> 1-based faces that count (else all)."""
    folder.mkdir(parents=True, exist_ok=True)
    events = cell([np.array([event]) for event in faces_xywh])
    names = cell([cell([np.array([name]) for name in images]) for images in faces_xywh.values()])
    boxes = cell(
        [cell([np.array(rows, np.int32).reshape(-1, 4) for rows in images.values()]) for images in faces_xywh.values()]
    )
    savemat(folder / "wider_face_val.mat", {"event_list": events, "file_list": names, "face_bbx_list": boxes})
    for subset in SUBSETS:
        chosen = counted.get(subset, {})
        groups = [
            cell(
                [
                    np.array(chosen.get(name, range(1, len(rows) + 1)), np.uint8).reshape(-1, 1)
                    for name, rows in images.items()
                ]
            )
            for images in faces_xywh.values()
        ]
        savemat(folder / f"wider_{subset}_val.mat", {"gt_list": cell(groups)})
    return folder


def write_predictions(folder: Path, rows_xywhs: Mapping[str, Rows]) -> Path:
    """`event/image` -> x, y, w, h, score as one text file an image."""
    for name, rows in rows_xywhs.items():
        file = folder / f"{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = [" ".join(f"{value:.10g}" for value in row) for row in rows]
        file.write_text("\n".join([name, str(len(rows)), *lines]) + "\n", encoding="utf-8")
    return folder


def truth_of(faces_xywh: Sequence[Rows], counted: Sequence[Sequence[bool]] | None = None) -> GroundTruth:
    """Ground truth in memory, one entry an image; without `counted` all faces count."""
    arrays = [np.array(rows, np.float64).reshape(-1, 4) for rows in faces_xywh]
    flags = [flag for image in counted for flag in image] if counted else [True] * sum(map(len, arrays))
    return GroundTruth(
        tuple(f"event/{index}" for index in range(len(arrays))),
        _xyxy(arrays, 4),
        starts_of(np.array([len(rows) for rows in arrays])),
        {"all": np.array(flags, np.bool_)},
    )


def predictions_of(rows_xywhs: Sequence[Rows]) -> Predictions:
    """Predictions in memory, one entry an image."""
    arrays = [np.array(rows, np.float64).reshape(-1, 5) for rows in rows_xywhs]
    boxes = _xyxy(arrays, 5)
    return Predictions(boxes[:, :4], boxes[:, 4], starts_of(np.array([len(rows) for rows in arrays])))


def _xyxy(arrays: Sequence[FloatArray], columns: int) -> FloatArray:
    rows = np.concatenate([np.zeros((0, columns)), *arrays])
    rows[:, 2:4] += rows[:, :2]
    return rows
