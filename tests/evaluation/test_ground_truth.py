from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from lib.errors import DataError
from lib.evaluation.ground_truth import SUBSETS, read_annotated_truth, read_ground_truth
from tests.shared import shared
from tests.wider_files import cell, write_truth

FACES = {"0--Parade": {"a": [[1, 2, 3, 4], [10, 10, 5, 6]], "b": []}, "1--Handshaking": {"c": [[7, 8, 9, 10]]}}
EASY = {"easy": {"a": [2], "c": []}}


def test_mat_files_become_arrays(tmp_path: Path) -> None:
    truth = read_ground_truth(write_truth(tmp_path, FACES, EASY))
    assert truth.names == ("0--Parade/a", "0--Parade/b", "1--Handshaking/c")
    assert truth.starts.tolist() == [0, 2, 2, 3]
    assert truth.faces_xyxy_px.tolist() == [[1, 2, 4, 6], [10, 10, 15, 16], [7, 8, 16, 18]]
    assert {subset: counted.tolist() for subset, counted in truth.counted.items()} == {
        "easy": [False, True, False],
        "medium": [True, True, True],
        "hard": [True, True, True],
    }


def test_a_part_of_the_images_is_selected(tmp_path: Path) -> None:
    truth = read_ground_truth(write_truth(tmp_path, FACES, EASY)).select(np.array([False, True, True]))
    assert truth.names == ("0--Parade/b", "1--Handshaking/c")
    assert truth.starts.tolist() == [0, 0, 1]
    assert truth.faces_xyxy_px.tolist() == [[7, 8, 16, 18]]
    assert truth.counted["easy"].tolist() == [False]


def test_the_official_files() -> None:
    truth = read_ground_truth(shared("wider/ground_truth"))
    assert len(truth.names) == 3226
    assert truth.names[0] == "0--Parade/0_Parade_marchingband_1_465"
    assert len(truth.faces_xyxy_px) == truth.starts[-1] == 39708
    assert [int(truth.counted[subset].sum()) for subset in SUBSETS] == [7211, 13319, 31958]


def test_a_wrong_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        read_ground_truth(tmp_path / "none")
    with pytest.raises(DataError, match=r"wider_face_val\.mat: no such file"):
        read_ground_truth(tmp_path)


def test_a_missing_subset_is_named(tmp_path: Path) -> None:
    write_truth(tmp_path, FACES, {})
    (tmp_path / "wider_medium_val.mat").unlink()
    with pytest.raises(DataError, match=r"wider_medium_val\.mat: no such file"):
        read_ground_truth(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no MATLAB file at all", b"MATLAB 5.0 MAT-file" + bytes(200)])
def test_what_is_no_mat_file_is_named(tmp_path: Path, content: bytes) -> None:
    write_truth(tmp_path, FACES, {})
    (tmp_path / "wider_hard_val.mat").write_bytes(content)
    with pytest.raises(DataError, match=r"wider_hard_val\.mat: "):
        read_ground_truth(tmp_path)


def test_a_truncated_mat_file_is_named(tmp_path: Path) -> None:
    file = write_truth(tmp_path, FACES, {}) / "wider_face_val.mat"
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"wider_face_val\.mat: "):
        read_ground_truth(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("wider_face_val.mat", {"x": 1}, "it has no event_list"),
        ("wider_face_val.mat", {"event_list": 1, "file_list": 1, "face_bbx_list": 1}, "event_list is no cell array"),
        (
            "wider_face_val.mat",
            {"event_list": cell([np.array(["e"])]), "file_list": cell([]), "face_bbx_list": cell([])},
            "do not have the same events",
        ),
        (
            "wider_face_val.mat",
            {
                "event_list": cell([np.array(["e"])]),
                "file_list": cell([cell([np.array(["i"])])]),
                "face_bbx_list": cell([cell([np.ones((2, 3))])]),
            },
            "no rows of x, y, w, h",
        ),
        (
            "wider_face_val.mat",
            {
                "event_list": cell([np.array([7])]),
                "file_list": cell([cell([np.array(["i"])])]),
                "face_bbx_list": cell([cell([np.ones((2, 4))])]),
            },
            "event_list holds .* instead of a name",
        ),
        ("wider_easy_val.mat", {"file_list": 1}, "it has no gt_list"),
        ("wider_easy_val.mat", {"gt_list": cell([])}, "does not have the events and images"),
        (
            "wider_easy_val.mat",
            {"gt_list": cell([cell([np.array([3]), np.array([])]), cell([np.array([1])])])},
            "names a face 3 of an image with 2 faces",
        ),
        (
            "wider_easy_val.mat",
            {"gt_list": cell([cell([np.array(["x"]), np.array([])]), cell([np.array([1])])])},
            "gt_list holds no numbers",
        ),
    ],
)
def test_a_mat_file_that_is_no_ground_truth_is_named(
    tmp_path: Path, file: str, content: dict[str, object], message: str
) -> None:
    write_truth(tmp_path, FACES, {})
    savemat(tmp_path / file, content)
    with pytest.raises(DataError, match=f"{file}: .*{message}"):
        read_ground_truth(tmp_path)


def test_annotations_of_either_format(tmp_path: Path) -> None:
    official, lines = tmp_path / "official.txt", tmp_path / "lines.txt"
    official.write_text("e/a.jpg\n2\n1 2 3 4 0 0\n0 0 0 5 0 0\ne/b.jpg\n0\n0 0 0 0 0 0\n")
    lines.write_text("e/a.jpg| 1,2,4,6,1\ne/b.jpg|\n")
    for file in (official, lines):
        truth = read_annotated_truth(file)
        assert truth.names == ("e/a", "e/b")
        assert truth.starts.tolist() == [0, 1, 1]
        assert truth.faces_xyxy_px.tolist() == [[1, 2, 4, 6]]
        assert truth.counted["all"].tolist() == [True]


def test_images_that_share_a_prediction_file_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("e/a.jpg| 1,2,4,6,1\ne/a.png| 1,2,4,6,1\n")
    with pytest.raises(DataError, match=r"a\.txt:2: 'e/a\.png' has the prediction file e/a\.txt.*a\.txt:1"):
        read_annotated_truth(file)


@pytest.mark.parametrize("name", ["/", ".", "..", "e/.."])
def test_what_can_be_no_image_is_refused_by_line(tmp_path: Path, name: str) -> None:
    file = tmp_path / "a.txt"
    file.write_text(f"e/a.jpg| 1,2,4,6,1\n{name}| 1,2,4,6,1\n")
    with pytest.raises(DataError, match=r"a\.txt:2: .* names no image"):
        read_annotated_truth(file)
