import logging
from pathlib import Path

import numpy as np
import pytest

from lib.data.annotations import read_annotations
from lib.errors import DataError
from tests.shared import shared

ATTRIBUTES = " 0 0 0 0 0 0"


def _write(tmp_path: Path, *lines: str) -> Path:
    file = tmp_path / "gt.txt"
    file.write_text("\n".join(lines) + "\n")
    return file


def test_official_format(tmp_path: Path) -> None:
    file = _write(
        tmp_path, "a/1.jpg", "2", "1 2 3 4" + ATTRIBUTES, "5 6 7 8" + ATTRIBUTES,
        "a/2.jpg", "0", "0 0 0 0" + ATTRIBUTES, "a/3.jpg", "0", "a/4.jpg", "1", "1.5 0 2.5 3",
    )  # fmt: skip
    records = read_annotations(file, "root", check_images=False)
    assert [r.name for r in records] == ["a/1.jpg", "a/2.jpg", "a/3.jpg", "a/4.jpg"]
    np.testing.assert_array_equal(records[0].boxes_xyxy_px, [[1, 2, 4, 6], [5, 6, 12, 14]])
    assert [len(r.boxes_xyxy_px) for r in records] == [2, 0, 0, 1]
    np.testing.assert_array_equal(records[3].boxes_xyxy_px, [[1.5, 0, 4, 3]])
    assert records[3].origin == f"{file}:10"
    assert records[3].image == Path("root/a/4.jpg")


def test_invalid_faces_are_flagged(tmp_path: Path) -> None:
    rows = ["1 1 5 5 2 0 0 1 2 0", "1 1 0 5 0 0 0 1 0 0", "1 1 5 5 1 1 1 0 1 1", "1 1 5 5", "1 1 5 5 0 0 0 1"]
    [record] = read_annotations(_write(tmp_path, "1.jpg", "5", *rows), tmp_path, check_images=False)
    assert record.invalid is not None
    assert record.invalid.tolist() == [True, False, False, True]


def test_line_format(tmp_path: Path) -> None:
    file = _write(tmp_path, "a b/1.jpg| 1,2,4,6,1 5,6,12,14,1", "", "2.jpg|")
    records = read_annotations(file, tmp_path, check_images=False)
    assert [r.name for r in records] == ["a b/1.jpg", "2.jpg"]
    np.testing.assert_array_equal(records[0].boxes_xyxy_px, [[1, 2, 4, 6], [5, 6, 12, 14]])
    assert records[1].boxes_xyxy_px.shape == (0, 4)


@pytest.mark.parametrize(
    "lines",
    [
        ["1.jpg", "4", "1 1 0 5", "1 1 5 -2", "1 1 5 5", "3 3 5 0"],
        ["1.jpg| 1,1,1,6,1 1,1,6,-1,1 1,1,6,6,1 3,3,8,3,1"],
    ],
)
def test_every_box_without_area_is_dropped_and_counted(
    tmp_path: Path, lines: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    file = _write(tmp_path, *lines)
    with caplog.at_level(logging.WARNING):
        records = read_annotations(file, tmp_path, check_images=False)
    np.testing.assert_array_equal(records[0].boxes_xyxy_px, [[1, 1, 6, 6]])
    first = 3 if len(lines) > 1 else 1
    assert f"3 boxes of zero or negative size dropped, the first at {file}:{first}" in caplog.text


@pytest.mark.parametrize(
    ("lines", "line", "message"),
    [
        (["1.jpg", "2", "1 2 3 4", "1 2 3"], 4, "four finite numbers"),
        (["1.jpg", "1", "1 2 x 4"], 3, "no list of numbers"),
        (["1.jpg", "1", "1 2 nan 4"], 3, "four finite numbers"),
        (["1.jpg", "two"], 2, "number of faces"),
        (["1.jpg", "-1"], 2, "number of faces"),
        (["1.jpg", "2", "1 2 3 4"], 2, "announces 2 faces"),
        (["1.jpg", "1", "1 2 3 4", "2.jpg"], 4, "the file ends"),
        (["1.jpg| 1,2,3,4,1", "2.jpg| 1,2,3"], 2, "four finite numbers"),
        (["1.jpg| 1,2,3,4,1", "2.jpg 1,2,3,4"], 2, "expected `path|"),
    ],
)
def test_malformed_lines_are_named(tmp_path: Path, lines: list[str], line: int, message: str) -> None:
    file = _write(tmp_path, *lines)
    with pytest.raises(DataError) as error:
        read_annotations(file, tmp_path, check_images=False)
    assert f"{file}:{line}: " in str(error.value)
    assert message in str(error.value)


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such annotation file"):
        read_annotations(tmp_path / "absent.txt", tmp_path)
    with pytest.raises(DataError, match="empty"):
        read_annotations(_write(tmp_path, ""), tmp_path)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="as text"):
        read_annotations(tmp_path / "binary.txt", tmp_path)


def test_missing_images_are_found_before_work_starts(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").touch()
    file = _write(tmp_path, "1.jpg", "0", "2.jpg", "0", "3.jpg", "0")
    with pytest.raises(DataError) as error:
        read_annotations(file, tmp_path)
    assert f"{file}:3: no image at {tmp_path / '2.jpg'} (2 of 3 images" in str(error.value)
    assert "DATA.root_path" in str(error.value)


def test_real_annotations() -> None:
    split = shared("wider/wider_face_split")
    train = read_annotations(split / "wider_face_train_bbx_gt.txt", shared("wider/WIDER_train/images"))
    val = read_annotations(split / "wider_face_val_bbx_gt.txt", shared("wider/WIDER_val/images"))
    assert (len(train), len(val)) == (1382, 298)
    faces = shared("faces/val")
    assert len(read_annotations(faces / "bbx_gt.txt", faces / "images")) == 120
