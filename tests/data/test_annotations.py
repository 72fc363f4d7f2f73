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
        (["1.jpg", "2", "1 2 3 4", "1 2 3"], 4, "four numbers"),
        *((["1.jpg", "1", f"1 2 {bad} 4"], 3, "plain decimal") for bad in ("x", "nan", "inf", "1_0", "0x1", "\u0663")),
        *((["1.jpg", "1", f"1 2 {bad} 4"], 3, "beyond 1,000,000") for bad in ("1e39", "-1e39", "1e999")),
        (["1.jpg", "1", "1 2 3 4 0 0 0 x"], 3, "plain decimal"),
        (["1.jpg", "\u0663"], 2, "number of faces"),
        (["1.jpg", "two"], 2, "number of faces"),
        (["1.jpg", "-1"], 2, "number of faces"),
        (["1.jpg", "1" * 5000], 2, "number of faces"),
        (["1.jpg", "2", "1 2 3 4"], 2, "announces 2 faces"),
        (["1.jpg", "1", "1 2 3 4", "2.jpg"], 4, "the file ends"),
        (["1.jpg| 1,2,3,4,1", "2.jpg| 1,2,3"], 2, "four numbers"),
        *((["1.jpg| 1,2,3,4,1", f"2.jpg| 1,2,3,4{end}"], 2, "the fifth number 1") for end in ("", ",0", ",11", ",1,1")),
        *((["1.jpg| 1,2,3,4,1", f"2.jpg| 1,2,3,4,{bad}"], 2, "plain decimal") for bad in ("x", "1_0", "nan")),
        (["1.jpg| 1,2,3,4,1", "2.jpg| 1,2,3,4,"], 2, "plain decimal"),
        (["1.jpg| 1,2,3,4,1", "2.jpg 1,2,3,4"], 2, "expected `path|"),
    ],
)
def test_malformed_lines_are_named(tmp_path: Path, lines: list[str], line: int, message: str) -> None:
    file = _write(tmp_path, *lines)
    with pytest.raises(DataError) as error:
        read_annotations(file, tmp_path, check_images=False)
    assert f"{file}:{line}: " in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize("lines", [["a/1.jpg", "0", "./a/1.jpg", "0"], ["a/1.jpg|", "b/../a/1.jpg| 1,1,9,9,1"]])
def test_an_image_annotated_twice_is_refused(tmp_path: Path, lines: list[str]) -> None:
    file = _write(tmp_path, *lines)
    second = 3 if len(lines) == 4 else 2
    with pytest.raises(DataError, match=rf"gt\.txt:{second}: .* is annotated at .*gt\.txt:1 already; put all"):
        read_annotations(file, tmp_path, check_images=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [' + '{"id": 1}, ' * 50_000 + "]}", r"JSON, as COCO has it; write a line .*x2 = x \+ w"),
        ('[\n{"file_name": "1.jpg"}]', "JSON, as COCO"),
        ("<annotation>\n<folder>a</folder>", "XML, as Pascal VOC"),
        ("0 0.5 0.5 0.1 0.2\n0 0.1 0.1 0.1 0.1", r"YOLO .*\(cx - w / 2\) \* width"),
        ("filename,x1,y1,x2,y2\n1.jpg,1,2,3,4", "CSV"),
        ("x" * 400_000 + "\ny", "expected the number of faces"),
        ("1.jpg| " + "x" * 400_000, "plain decimal numbers"),
    ],
    ids=["coco", "json", "voc", "yolo", "csv", "long line", "long box"],
)
def test_other_formats_are_named_with_the_way_in_few_words(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        read_annotations(_write(tmp_path, text), tmp_path, check_images=False)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("name", ["[1].jpg", "{a}, b, c, d.jpg", "<x>.jpg", "1 2 3 4 5"])
def test_an_image_may_be_called_as_other_formats_begin(tmp_path: Path, name: str) -> None:
    [record] = read_annotations(_write(tmp_path, name, "1", "1 1 5 5"), tmp_path, check_images=False)
    assert record.name == name
    [record] = read_annotations(_write(tmp_path, f"{name}| 1,1,6,6,1"), tmp_path, check_images=False)
    assert record.name == name


@pytest.mark.parametrize("break_", ["\u2028", "\x85", "\x0c", "\x1c"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_only_the_ends_of_lines_part_names(tmp_path: Path, break_: str, end: str) -> None:
    file = tmp_path / "gt.txt"
    for text in (f"a{break_}b.jpg{end}1{end}1 1 5 5{end}2.jpg{end}0{end}", f"a{break_}b.jpg| 1,1,6,6,1{end}2.jpg|"):
        file.write_bytes(text.encode())
        first, second = read_annotations(file, tmp_path, check_images=False)
        assert (first.name, second.name) == (f"a{break_}b.jpg", "2.jpg")
        np.testing.assert_array_equal(first.boxes_xyxy_px, [[1, 1, 6, 6]])


def test_relative_boxes_are_refused_with_the_way(tmp_path: Path) -> None:
    for lines in (["1.jpg", "1", "0.5 0.5 0.1 0.2"], ["1.jpg| 0.1,0.2,0.9,1.01,1", "2.jpg| 0,0,1,1,1"]):
        with pytest.raises(DataError, match=r"shares of the image's sides: multiply them by its width"):
            read_annotations(_write(tmp_path, *lines), tmp_path, check_images=False)
    read_annotations(_write(tmp_path, "1.jpg| 0,0,1,1,1"), tmp_path, check_images=False)


def test_widths_in_the_place_of_corners_are_refused(tmp_path: Path) -> None:
    boxes = " ".join(f"{90 + i},{80 + i},20,30,1" for i in range(20))
    with pytest.raises(DataError, match=r"20 of 20 boxes have no positive width .* width and height where corners"):
        read_annotations(_write(tmp_path, f"1.jpg| {boxes}"), tmp_path, check_images=False)


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such annotation file"):
        read_annotations(tmp_path / "absent.txt", tmp_path)
    with pytest.raises(DataError, match="empty"):
        read_annotations(_write(tmp_path, ""), tmp_path)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="as text"):
        read_annotations(tmp_path / "binary.txt", tmp_path)


def test_a_name_too_long_for_a_file_is_a_missing_image(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gt\.txt:1: no image at .*x+ \(1 of 1") as error:
        read_annotations(_write(tmp_path, "x" * 5000, "0"), tmp_path)
    assert len(str(error.value)) < 1200


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
