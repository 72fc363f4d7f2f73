from pathlib import Path

import numpy as np
import pytest

from lib.data.annotations import Record, read_annotations
from lib.data.batches import FaceDataset, TargetSpec
from lib.data.images import read_rgb
from lib.data.picture import FACE_RGB, LEVELS_RGB, draw_targets, write_samples
from lib.data.recipes import Recipe
from lib.data.scenes import SampleSet
from lib.geometry.anchors import AnchorSpec

SPEC = TargetSpec(AnchorSpec(), 128, 160)
GREY = np.full((128, 160, 3), 90, np.uint8)


def _coloured(picture: np.ndarray, colour: tuple[int, int, int]) -> list[int]:
    """x1, y1, x2, y2 of the pixels of a colour."""
    rows, columns = np.nonzero((picture == colour).all(axis=2))
    return [int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())]


def test_faces_and_anchors_are_where_they_are() -> None:
    # At stride 16, the anchor of the cell in row 2, column 4: 64 x 80 px around (72, 40).
    boxes, _ = SPEC.targets(np.array([[42, 2, 102, 78]], np.float32))
    picture = draw_targets(GREY, boxes, SPEC.anchors, 320)
    assert picture.shape == (20 + 256, 320, 3)
    np.testing.assert_allclose(_coloured(picture, FACE_RGB), [84, 20 + 4, 204, 20 + 156], atol=1)
    left, _, right, bottom = _coloured(picture, LEVELS_RGB[2])
    assert left <= 2 * 40
    assert right >= 2 * 104
    assert bottom >= 20 + 2 * 80
    assert not (picture == LEVELS_RGB[0]).all(axis=2).any()


def test_no_face_no_frame() -> None:
    boxes, _ = SPEC.targets(np.zeros((0, 4), np.float32))
    picture = draw_targets(GREY, boxes, SPEC.anchors, 160)
    assert (picture[20:] == 90).all()


@pytest.mark.parametrize("sizes", [(), (64, 96, 128)])
def test_a_grid_of_samples(samples: SampleSet, tmp_path: Path, sizes: tuple[int, ...]) -> None:
    records: list[Record] = read_annotations(samples.train_annotations, samples.train_images)
    dataset = FaceDataset(records, SPEC, 4, Recipe(128, 160), sizes_px=sizes)
    write_samples(tmp_path / "a" / "samples.png", dataset, count=6, tile_px=160)
    height, width = read_rgb(tmp_path / "a" / "samples.png").shape[:2]
    assert (height, width) == (((160 if sizes else 128) + 20) * 2 + 8, 160 * 3 + 12)
