import json
import os
import stat
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


FOREIGN = [
    {"manifest.json": '{"model": "a.keras", "protocol": "single"}', "0--Parade/a.txt": "a\n0\n"},  # a WIDER result
    {"manifest.json": "cut sho"},
    {"manifest.json": '{"version": 0, "seed": 0, "train_scenes": 2, "val_scenes": 1}'},
    {".manifest.json.part.y": ""},
]


@pytest.mark.parametrize("files", FOREIGN, ids=lambda files: next(iter(files)))
def test_a_manifest_alone_makes_no_sample_set(tmp_path: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=r"choose another DATA\.sample_path"):
        ensure_samples(tmp_path, 0, 2, 1)
    left = {path.relative_to(tmp_path).as_posix(): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == files


@pytest.mark.parametrize("change", ["added", "edited", "removed"])
def test_a_sample_set_that_was_changed_is_not_replaced(tmp_path: Path, change: str) -> None:
    made = ensure_samples(tmp_path / "samples", 0, 2, 1)
    mine = tmp_path / "samples" / "mine.txt" if change == "added" else made.train_annotations
    if change == "removed":
        mine.unlink()
    else:
        mine.write_text("my own labels")
    with pytest.raises(DataError, match=r"mine\.txt" if change == "added" else "not as it was drawn"):
        ensure_samples(tmp_path / "samples", 1, 2, 1)
    assert change == "removed" or mine.read_text() == "my own labels"


@pytest.mark.parametrize("change", ["seed", "space", "nan", "deep"])
def test_a_set_with_another_manifest_is_not_replaced(tmp_path: Path, change: str) -> None:
    ensure_samples(tmp_path / "samples", 0, 2, 1)
    manifest = tmp_path / "samples" / "manifest.json"
    was = manifest.read_text()
    text = {
        "seed": was.replace('"seed": 0', '"seed": 7'),
        "space": f"{was}\n",
        "nan": was.replace('"seed": 0', '"seed": NaN'),
        "deep": "[" * 100_000,
    }[change]
    manifest.write_text(text)
    with pytest.raises(DataError, match="not as it was drawn"):
        ensure_samples(tmp_path / "samples", 1, 2, 1)
    assert manifest.read_text() == text


def test_a_sample_set_is_for_whom_the_umask_says_and_made_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    before = os.umask(0o027)
    try:
        ensure_samples(tmp_path / "link", 0, 2, 1)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "disk").stat().st_mode) == 0o750
    assert (tmp_path / "link").is_symlink()
    ensure_samples(tmp_path / "link", 0, 3, 1)
    assert json.loads((tmp_path / "disk" / "manifest.json").read_text())["train_scenes"] == 3


def test_a_file_in_the_place_of_the_set_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file: the sample set cannot be made here .*DATA\.sample_path"):
        ensure_samples(tmp_path / "file")
