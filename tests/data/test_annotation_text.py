"""RetinaFace's labels; the other two formats are in test_annotations.py."""

from pathlib import Path

import numpy as np
import pytest

from lib.arrays import FloatArray
from lib.data.annotations import Record, read_annotations
from lib.errors import DataError

POINTS = "20.5 30 0.0 40 31 1.0 30 40 0 22 50.25 0.0 38 49 0.0"
NONE = " ".join(["-1.0"] * 15)
FACE = f"10 20 40 50 {POINTS} 0.82"


def _read(tmp_path: Path, *lines: str) -> list[Record]:
    file = tmp_path / "label.txt"
    file.write_text("\n".join(lines) + "\n")
    return read_annotations(file, "root", check_images=False)


def _landmarks(record: Record) -> FloatArray:
    assert record.landmarks_px is not None
    return record.landmarks_px


def test_boxes_and_landmarks_of_every_kind_of_face(tmp_path: Path) -> None:
    records = _read(
        tmp_path, "# a b/1.jpg", FACE, f"1 2 3 4 {NONE} 0.2", "# 2.jpg", "# 3.jpg", "5 6 7 8",
        f"10 20 40 50 {POINTS}", "# 4.jpg", "1 1 2 2", "3 3 2 2", "# 5.jpg",
    )  # fmt: skip
    assert [r.name for r in records] == ["a b/1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg"]
    assert records[2].origin == f"{tmp_path / 'label.txt'}:5"
    assert records[0].image == Path("root/a b/1.jpg")
    np.testing.assert_array_equal(records[0].boxes_xyxy_px, [[10, 20, 50, 70], [1, 2, 4, 6]])
    known = np.array([[20.5, 30], [40, 31], [30, 40], [22, 50.25], [38, 49]], np.float32)
    np.testing.assert_array_equal(_landmarks(records[0])[0], known)
    np.testing.assert_array_equal(_landmarks(records[2])[1], known)
    for points in (_landmarks(records[0])[1], _landmarks(records[2])[0], _landmarks(records[3])):
        assert np.isnan(points).all()
    assert [_landmarks(record).shape for record in records] == [(n, 5, 2) for n in (2, 0, 2, 2, 0)]
    assert all(_landmarks(record).dtype == np.float32 for record in records)
    assert not any(record.invalid is None or record.invalid.any() for record in records)


def test_a_face_of_which_one_landmark_is_not_known_has_none(tmp_path: Path) -> None:
    [record] = _read(tmp_path, "# 1.jpg", f"10 20 40 50 {POINTS.replace('30 40 0', '-1 -1 -1')} 0.5")
    assert np.isnan(_landmarks(record)).all()


def test_landmarks_go_with_the_boxes_that_have_no_size(tmp_path: Path) -> None:
    [record] = _read(tmp_path, "# 1.jpg", f"1 2 0 4 {NONE} 0.2", FACE, "5 5 5 -1")
    assert _landmarks(record).shape == (1, 5, 2)
    assert _landmarks(record)[0, 0].tolist() == [20.5, 30]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1 2 3", "four numbers at least"),
        ("5", "four numbers at least"),
        ("1 2 3 4 5", "4, 19 or 20 numbers, got 5"),
        (f"{FACE} 1", "4, 19 or 20 numbers, got 21"),
        (FACE.rsplit(" ", 3)[0], "4, 19 or 20 numbers, got 17"),
        (FACE.replace("30 40", "30 x"), "plain decimal numbers"),
        (FACE.replace("30 40", "30 nan"), "plain decimal numbers"),
        (FACE.replace("30 40", "30 1e9"), "beyond 1,000,000"),
        (FACE.replace("30 40 0", "-1 -1 0"), "write -1 for all fifteen"),
        (FACE.replace("30 40", "-1 40"), "write -1 for all fifteen"),
        (f"10 20 40 50 {NONE.replace('-1.0', '7', 1)} 0.2", "write -1 for all fifteen"),
        ("#2.jpg", "plain decimal numbers"),
    ],
)
@pytest.mark.parametrize("others", [[], [FACE]], ids=["alone", "beside another"])
def test_malformed_lines_are_named(tmp_path: Path, row: str, message: str, others: list[str]) -> None:
    with pytest.raises(DataError) as error:
        _read(tmp_path, "# 1.jpg", *others, row, "# 2.jpg")
    assert f"label.txt:{2 + len(others)}: expected a face of '1.jpg'" in str(error.value)
    assert message in str(error.value)


def test_the_checks_of_the_other_formats_are_made(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"label\.txt:3: .* is annotated at .*label\.txt:1 already"):
        _read(tmp_path, "# 1.jpg", FACE, "# ./1.jpg")
    with pytest.raises(DataError, match="shares of the image's sides"):
        _read(tmp_path, "# 1.jpg", "0.1 0.1 0.5 0.5")


@pytest.mark.parametrize("lines", [["#1.jpg", "1", "1 1 5 5"], ["# 1.jpg| 1,1,6,6,1"]])
def test_the_other_formats_have_no_landmarks_whatever_an_image_is_called(tmp_path: Path, lines: list[str]) -> None:
    [record] = _read(tmp_path, *lines)
    assert record.name == lines[0].split("|")[0]
    assert record.landmarks_px is None
    np.testing.assert_array_equal(record.boxes_xyxy_px, [[1, 1, 6, 6]])
