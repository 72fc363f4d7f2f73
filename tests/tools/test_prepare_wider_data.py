import importlib
from pathlib import Path

import numpy as np
import pytest

from lib.data.annotations import SplitCounts, convert_split, read_annotations
from lib.data.images import write_rgb
from lib.errors import DataError
from tests.shared import shared

tool = importlib.import_module("tools.prepare_wider_data")

TRAIN = """0--Parade/a.jpg
4
10 20 0 5 0 0 0 0 0 0
1 2 3 4 0 0 0 0 0 0
5 6 7 0 0 0 0 0 0 0
0.1 0.2 1e-1 300000.5
0--Parade/b.jpg
0
0 0 0 0 0 0 0 0 0 0
1--Riot/c.jpg
1
9 9 -3 5 0 0 0 0 0 0
"""
VAL = "0--Parade/v.jpg\n1\n7 8 9 10 0 0 0 0 0 0\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split, text, names in (
        ("train", TRAIN, ("0--Parade/a", "0--Parade/b", "1--Riot/c")),
        ("val", VAL, ("0--Parade/v",)),
    ):
        annotations = tmp_path / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt"
        annotations.parent.mkdir(exist_ok=True)
        annotations.write_text(text)
        for name in names:
            write_rgb(tmp_path / f"WIDER_{split}" / "images" / f"{name}.jpg", np.zeros((20, 20, 3), np.uint8))
    return tmp_path


def assert_same_boxes(root: Path, split: str, written: Path) -> None:
    images = root / f"WIDER_{split}" / "images"
    before = read_annotations(root / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt", images)
    after = read_annotations(written, images)
    assert [record.name for record in after] == [record.name for record in before]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(new.boxes_xyxy_px, old.boxes_xyxy_px)


def test_every_box_of_no_size_is_dropped_and_counted(root: Path) -> None:
    file = root / "train.txt"
    assert convert_split(root, "train", file) == SplitCounts(images=3, faceless=2, faces=2, dropped=3)
    lines = file.read_text().splitlines()
    assert lines[0].startswith("0--Parade/a.jpg| 1,2,4,6,1 0.1,0.2,0.2")
    assert lines[1:] == ["0--Parade/b.jpg|", "1--Riot/c.jpg|"]


def test_written_files_read_as_the_same_boxes(root: Path) -> None:
    for split in ("train", "val"):
        convert_split(root, split, root / f"{split}.txt")
        assert_same_boxes(root, split, root / f"{split}.txt")


@pytest.mark.parametrize("split", ["train", "val"])
def test_wider_face_reads_as_the_same_boxes(split: str, tmp_path: Path) -> None:
    counts = convert_split(shared("wider"), split, tmp_path / "out.txt")
    assert counts.images == {"train": 1382, "val": 298}[split]
    assert_same_boxes(shared("wider"), split, tmp_path / "out.txt")


def test_the_command_writes_both_files(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["--root", str(root), "--output", str(root / "new")]) == 0
    assert (root / "new" / "val.txt").read_text() == "0--Parade/v.jpg| 7,8,16,18,1\n"
    out = capsys.readouterr().out
    assert "3 images, 2 faces; 3 boxes of zero size dropped; 2 images without faces" in out


def test_a_wrong_root_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        tool.main(["--root", str(tmp_path)])
    assert stopped.value.code == 2
    assert "WIDER_train/images: not there; --root takes WIDER FACE" in capsys.readouterr().err


def test_faulty_annotations_are_named_by_line(root: Path) -> None:
    annotations = root / "wider_face_split" / "wider_face_val_bbx_gt.txt"
    for text, message in (
        ("0--Parade/v.jpg\n1\nx y\n", r"val_bbx_gt.txt:3: expected a face"),
        ("0--Parade/v.jpg\n2\n1 2 3 4\n", r"val_bbx_gt.txt:2: .* announces 2 faces"),
        ("0--Parade/gone.jpg\n1\n1 2 3 4\n", r"val_bbx_gt.txt:1: no image at"),
        (VAL + VAL, r"val_bbx_gt.txt:4: .* is annotated at .*val_bbx_gt.txt:1 already"),
    ):
        annotations.write_text(text)
        with pytest.raises(DataError, match=message):
            convert_split(root, "val", root / "val.txt")
        assert not (root / "val.txt").exists()
