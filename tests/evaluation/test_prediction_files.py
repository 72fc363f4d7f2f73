import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lib.errors import DataError
from lib.evaluation.prediction_files import parse_predictions, prediction_name, read_predictions
from lib.limits import allowing
from tests.wider_files import Rows, write_predictions

NAMES = ["0--Parade/a", "0--Parade/b", "1--Handshaking/c"]
ROWS: dict[str, Rows] = {
    "0--Parade/a": [[1, 2, 3, 4, 0.5], [5, 6, 7.5, 8, 0.25]],
    "0--Parade/b": [],
    "1--Handshaking/c": [[0, 0, 1, 1, 1]],
}


def test_files_become_arrays(tmp_path: Path) -> None:
    predictions, present = read_predictions(write_predictions(tmp_path, ROWS), NAMES)
    assert present.all()
    assert predictions.starts.tolist() == [0, 2, 2, 3]
    assert predictions.scores.tolist() == [0.5, 0.25, 1]
    assert predictions.boxes_xyxy_px.tolist() == [[1, 2, 4, 6], [5, 6, 12.5, 14], [0, 0, 1, 1]]


@pytest.mark.parametrize("prefix", ["", "results/run 1/"])
def test_a_zip_is_read_like_its_folder(tmp_path: Path, prefix: str) -> None:
    folder = write_predictions(tmp_path / "r", ROWS)
    with zipfile.ZipFile(tmp_path / "r.zip", "w") as archive:
        for name in NAMES:
            archive.write(folder / f"{name}.txt", f"{prefix}{name}.txt")
    zipped, plain = read_predictions(tmp_path / "r.zip", NAMES)[0], read_predictions(folder, NAMES)[0]
    np.testing.assert_array_equal(zipped.boxes_xyxy_px, plain.boxes_xyxy_px)
    np.testing.assert_array_equal(zipped.starts, plain.starts)


@pytest.mark.parametrize(
    "text",
    [
        b"name\n1\n1 2 3 4 0.5\n",
        b"name\r\n1\r\n1 2 3 4 0.5\r\n",
        b"name\n1\n1 2 3 4 0.5",
        b"name\n1 \n 1  2 3 4\t0.5 \n\n",
    ],
)
def test_line_ends_and_spaces_do_not_matter(text: bytes) -> None:
    assert parse_predictions(text, "x.txt").tolist() == [[1, 2, 3, 4, 0.5]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", r"x\.txt:2: expected the number of boxes, got the end of the file"),
        (b"name\n", r"x\.txt:2: .*the end of the file"),
        (b"name\n1 2 3 4 0.5\n", r"x\.txt:2: expected the number of boxes, got '1 2 3 4 0\.5'"),
        (b"name\n-1\n", r"x\.txt:2: "),
        (b"name\n" + b"1" * 5000, r"x\.txt:2: expected the number of boxes, got '1{80}'"),
        (b"name\n3\n1 2 3 4 0.5\n", r"x\.txt:3: line 2 announces 3 boxes, but the file ends after 1"),
        (b"name\n1\n1 2 3 4 0.5\n1 2 3 4 0.4\n", r"x\.txt:4: line 2 announces 1 boxes, but .* after 2"),
        (b"name\n2\n1 2 3 4 0.5\n1 2 3", r"x\.txt:4: expected five finite numbers .*, got '1 2 3'"),
        (b"name\n2\n1 2 3 4\n0.5 1 2 3 4 0.4\n", r"x\.txt:3: expected five"),
        (b"name\n2\n1 2 3 4 0.5\n1 2 three 4 0.5\n", r"x\.txt:4: .*'1 2 three 4 0\.5'"),
        (b"name\n1\n1 2 3 4 nan\n", r"x\.txt:3: "),
        (b"name\n1\n1 2 inf 4 0.5\n", r"x\.txt:3: "),
        (b"name\n1\n1_0 2 3 4 0.5\n", r"x\.txt:3: .*'1_0 2 3 4 0\.5'"),
        (b"name\n1\n\xff\xfe\n", r"x\.txt:3: "),
    ],
)
def test_a_malformed_file_names_itself_and_its_line(text: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_predictions(text, "x.txt")


def test_a_malformed_file_is_found_in_its_folder(tmp_path: Path) -> None:
    folder = write_predictions(tmp_path, ROWS)
    (folder / "0--Parade/b.txt").write_text("b\n1\n1 2 3 4\n")
    with pytest.raises(DataError, match=r"0--Parade/b\.txt:3"):
        read_predictions(folder, NAMES)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    folder = write_predictions(tmp_path, ROWS)
    (folder / "0--Parade/b.txt").unlink()
    with pytest.raises(DataError, match=r"0--Parade/b\.txt \(1 of 3 images"):
        read_predictions(folder, NAMES)


def test_a_missing_file_may_be_left_out(tmp_path: Path) -> None:
    folder = write_predictions(tmp_path, ROWS)
    (folder / "0--Parade/b.txt").unlink()
    predictions, present = read_predictions(folder, NAMES, only_predicted=True)
    assert present.tolist() == [True, False, True]
    assert predictions.starts.tolist() == [0, 2, 3]


@pytest.mark.parametrize("only_predicted", [False, True])
def test_an_empty_folder_is_an_error(tmp_path: Path, only_predicted: bool) -> None:
    with pytest.raises(DataError, match=r"no prediction file for any of the 3 images; expected 0--Parade/a\.txt"):
        read_predictions(tmp_path, NAMES, only_predicted)


def test_a_folder_one_too_high_names_the_right_one(tmp_path: Path) -> None:
    write_predictions(tmp_path / "inner", ROWS)
    with pytest.raises(DataError, match="inner has them"):
        read_predictions(tmp_path, NAMES)


def test_a_wrong_path_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        read_predictions(tmp_path / "none", NAMES)
    (tmp_path / "no.zip").write_text("text")
    with pytest.raises(DataError, match=r"no\.zip: no such folder of prediction files, nor a \.zip"):
        read_predictions(tmp_path / "no.zip", NAMES)


@pytest.mark.parametrize("prefix", ["", "result/"])
def test_a_zip_of_an_unfinished_folder_names_the_shard(tmp_path: Path, prefix: str) -> None:
    def packed(records: dict[str, str]) -> Path:
        with zipfile.ZipFile(tmp_path / "r.zip", "w") as archive:
            archive.writestr(f"{prefix}{NAMES[0]}.txt", "a\n1\n1 2 30 40 0.5\n")
            for name, text in records.items():
                archive.writestr(f"{prefix}{name}", text)
        return tmp_path / "r.zip"

    done, begun = (json.dumps({"done": flag, "images": "x"}) for flag in (True, False))
    for second in ({}, {"shard_2_of_2.json": begun}):
        with pytest.raises(DataError, match=r"r\.zip: shard 2/2 is missing, or has not come to its end .*--shard 2/2"):
            read_predictions(packed({"shard_1_of_2.json": done, **second}), NAMES, only_predicted=True)
    with pytest.raises(DataError, match=r"r\.zip: shard_2_of_2\.json is not as it was written .* predict shard 2/2"):
        read_predictions(packed({"shard_2_of_2.json": "{"}), NAMES, only_predicted=True)
    whole = {"shard_1_of_2.json": done, "shard_2_of_2.json": done, "shards.txt": "?"}
    assert read_predictions(packed(whole), NAMES, only_predicted=True)[1].sum() == 1


def test_a_damaged_zip_names_the_entry(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "r.zip", "w") as archive:
        archive.writestr("0--Parade/a.txt", "a\n0\nUNLIKELY")
    content = (tmp_path / "r.zip").read_bytes().replace(b"UNLIKELY", b"LIKELIER", 1)
    (tmp_path / "r.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.txt cannot be unpacked"):
        read_predictions(tmp_path / "r.zip", ["0--Parade/a"])


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("0--Parade/0_a.jpg", "0--Parade/0_a"),
        ("0--Parade\\0_a.jpg", "0--Parade/0_a"),
        ("/data/x.y/b.png", "data/x.y/b"),
        ("../b.png", "b"),
        ("plain", "plain"),
        *((nothing, "") for nothing in ("", "/", ".", "..", "a/..")),
    ],
)
def test_prediction_names(image: str, name: str) -> None:
    assert prediction_name(image) == name


@pytest.mark.parametrize("bad", [[1, 1, -5, 9, 0.5], [1, 1, 5, -0.1, 0.5], [1, 1, 1e300, 9, 0.5], [-1e7, 1, 5, 9, 0.5]])
def test_boxes_that_no_image_has_are_named(tmp_path: Path, bad: list[float]) -> None:
    by_name = {"a/1": [[1, 1, 5, 9, 0.5]], "a/2": [[1, 1, 0, 0, 0.5], bad]}
    with pytest.raises(DataError, match=r"a/2\.txt:4: a width or height is negative, or a number beyond"):
        read_predictions(write_predictions(tmp_path, by_name), list(by_name))


def _faces(count: int = 30) -> np.ndarray:
    """[n, 5] x, y, w, h, score in 640x480."""
    rng = np.random.default_rng(0)
    return np.column_stack([rng.uniform(0, 600, (count, 2)), rng.uniform(10, 30, (count, 2)), rng.uniform(0, 1, count)])


def test_relative_coordinates_are_refused(tmp_path: Path) -> None:
    relative = _faces() / [640, 480, 640, 480, 1]
    with pytest.raises(DataError, match="shares of the image's sides; expected `x y w h score`"):
        read_predictions(write_predictions(tmp_path, {"a/1": relative.tolist()}), ["a/1"])


@pytest.mark.parametrize("other", ["as expected", "score first", "corners"])
def test_other_columns_are_suspected(tmp_path: Path, other: str, caplog: pytest.LogCaptureFixture) -> None:
    rows = _faces()
    if other == "score first":
        rows = rows[:, [4, 0, 1, 2, 3]]
    elif other == "corners":
        rows[:, 2:4] += rows[:, :2]
    read_predictions(write_predictions(tmp_path, {"a/1": rows.tolist()}), ["a/1"])
    hint = {"as expected": "", "score first": "is the score first", "corners": "third and fourth numbers x2 and y2"}[
        other
    ]
    assert hint in caplog.text
    assert bool(caplog.text) == bool(hint)


@pytest.mark.parametrize("folders", [("one/", "two/"), ("", "backup/")])
def test_a_zip_of_two_results_is_refused(tmp_path: Path, folders: tuple[str, str]) -> None:
    with zipfile.ZipFile(tmp_path / "r.zip", "w") as archive:
        for folder in folders:
            archive.writestr(f"{folder}a/1.txt", "1\n0\n")
    with pytest.raises(DataError, match=r"holds several results, in .*; pack each on its own"):
        read_predictions(tmp_path / "r.zip", ["a/1"])


def test_a_zip_may_have_backslashes_and_must_not_be_a_bomb(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "r.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("result\\a\\1.txt", "1\n1\n1 2 3 4 0.5\n")
        archive.writestr("result\\a\\2.txt", b"\n" * (1 << 27))
    assert read_predictions(tmp_path / "r.zip", ["a/1"])[0].boxes_xyxy_px.tolist() == [[1, 2, 4, 6]]
    with pytest.raises(DataError, match=r"unpacks to 134,217,728 bytes; .* raise LIMITS\.max_prediction_bytes"):
        read_predictions(tmp_path / "r.zip", ["a/1", "a/2"])
    with allowing(max_prediction_bytes=1 << 27), pytest.raises(DataError, match=r"a/2\.txt:2: expected the number"):
        read_predictions(tmp_path / "r.zip", ["a/1", "a/2"])
