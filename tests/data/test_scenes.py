from pathlib import Path

import numpy as np
import pytest

from lib.data.annotations import read_annotations
from lib.data.images import read_rgb
from lib.data.scenes import HEIGHT_PX, WIDTH_PX, SampleSet, draw_scene, ensure_samples
from lib.errors import DataError


def test_set_is_in_wider_layout(samples: SampleSet) -> None:
    train = read_annotations(samples.train_annotations, samples.train_images)
    val = read_annotations(samples.val_annotations, samples.val_images)
    assert (len(train), len(val)) == (16, 6)
    for record in train:
        assert read_rgb(record.image).shape == (HEIGHT_PX, WIDTH_PX, 3)
        assert (record.boxes_xyxy_px >= 0).all()
        assert (record.boxes_xyxy_px <= [WIDTH_PX, HEIGHT_PX, WIDTH_PX, HEIGHT_PX]).all()


def test_same_seed_same_scene() -> None:
    image, boxes = draw_scene(np.random.default_rng(3))
    again, boxes_again = draw_scene(np.random.default_rng(3))
    other, _ = draw_scene(np.random.default_rng(4))
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(boxes, boxes_again)
    assert (image != other).any()


def test_some_scenes_have_no_face_and_sizes_vary() -> None:
    boxes = [draw_scene(np.random.default_rng(i))[1] for i in range(60)]
    assert any(not len(b) for b in boxes)
    heights = np.concatenate([b[:, 3] - b[:, 1] for b in boxes])
    assert heights.min() < 24
    assert heights.max() > 80


def test_made_once_and_anew_when_asked_for_another(tmp_path: Path) -> None:
    folder = tmp_path / "samples"
    made = ensure_samples(folder, 0, 2, 1).train_annotations.stat().st_mtime_ns
    assert ensure_samples(folder, 0, 2, 1).train_annotations.stat().st_mtime_ns == made
    assert len(read_annotations(ensure_samples(folder, 0, 3, 1).train_annotations, "", check_images=False)) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["samples"]


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(DataError, match="not empty and no sample set"):
        ensure_samples(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "precious"
