from pathlib import Path

import numpy as np
import pytest

from lib.arrays import FloatArray
from lib.data.annotations import Record, read_annotations
from lib.data.fit import MisfitError, misfit, read_fitting, too_many
from lib.data.images import write_rgb
from tests.shared import shared

FACES = np.array([[100, 100, 130, 140], [300, 200, 360, 280], [600, 430, 650, 490]], np.float32)  # in 640x480


def test_boxes_may_reach_over_the_edge() -> None:
    assert misfit(FACES, 480, 640) == ""
    assert misfit(FACES[:0], 480, 640) == ""
    assert misfit(np.array([[-10, -10, 650, 490]], np.float32), 480, 640) == ""


@pytest.mark.parametrize(
    "boxes",
    [
        FACES * 8,  # made on a larger picture
        np.concatenate([FACES[:, :2], FACES[:, :2] + FACES[:, 2:]], axis=1),  # corners read as width and height
        FACES + 10_000,
    ],
)
def test_boxes_of_another_picture_are_named(boxes: FloatArray) -> None:
    assert "lie outside of its 640x480 px by more than half" in misfit(boxes, 480, 640)


def test_relative_boxes_are_named() -> None:
    assert "shares of its sides" in misfit(FACES / [640, 480, 640, 480], 480, 640)


def test_an_image_is_read_and_held_against_its_boxes(tmp_path: Path) -> None:
    write_rgb(tmp_path / "1.png", np.full((480, 640, 3), 7, np.uint8))
    record = Record("1.png", tmp_path / "1.png", FACES, "gt.txt:1")
    assert read_fitting(record).shape == (480, 640, 3)
    with pytest.raises(MisfitError, match=r"1\.png: 1 of 1 boxes lie outside .*larger picture"):
        read_fitting(Record("1.png", tmp_path / "1.png", FACES[:1] + 1000, "gt.txt:1"))


def test_an_accident_is_one_image_or_one_in_a_hundred() -> None:
    assert [too_many(unusable, 16) for unusable in (1, 2)] == [False, True]
    assert [too_many(unusable, 1000) for unusable in (10, 11)] == [False, True]


def test_no_real_box_is_refused() -> None:
    split = shared("wider/wider_face_split")
    records = read_annotations(split / "wider_face_val_bbx_gt.txt", shared("wider/WIDER_val/images"))
    for record in records[::6]:
        read_fitting(record)
