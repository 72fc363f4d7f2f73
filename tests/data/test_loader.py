import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lib.anchors import AnchorSpec, anchor_grid, decode
from lib.compensation import Compensation
from lib.data.augment import Sample
from lib.data.images import read_rgb
from lib.data.loader import FaceDataset, TargetSpec
from lib.data.recipes import Recipe, validation_sample
from lib.data.samples import SampleSet
from lib.data.wider import Record, read_annotations
from lib.errors import DataError

SPEC = TargetSpec(AnchorSpec(), 96, 128)
RECIPE = Recipe(96, 128)


@pytest.fixture
def records(samples: SampleSet) -> list[Record]:
    return read_annotations(samples.train_annotations, samples.train_images)


def _equal(a: Any, b: Any) -> bool:
    return np.array_equal(a[0], b[0]) and all(np.array_equal(a[1][k], b[1][k]) for k in ("boxes", "scores"))


def test_targets_decode_to_the_faces() -> None:
    faces = np.array([[10, 10, 40, 50], [80, 20, 100, 44]], np.float32)
    boxes, scores = SPEC.targets(faces)
    grid = anchor_grid(SPEC.anchors, 96, 128)
    decoded = decode(boxes[:, :4], grid)[scores > 0] * [128, 96, 128, 96]
    assert len(decoded) >= 2
    assert {tuple(row) for row in decoded.round(2).tolist()} == {tuple(row) for row in faces.tolist()}
    np.testing.assert_array_equal(boxes[:, 4], scores)
    assert not boxes[scores == 0].any()


def test_each_shot_gets_the_targets_of_its_anchors(records: list[Record]) -> None:
    anchors = AnchorSpec(ratio=1.5, scales=(1.0, 0.5), code="corners")
    spec = TargetSpec(anchors, 96, 128, compensation=Compensation(), shots=("", "first_"))
    boxes, scores = spec.targets(records[0].boxes_xyxy_px[:0])
    assert not boxes.any()
    faces = np.array([[10, 10, 40, 50], [80, 20, 88, 32]], np.float32)
    boxes, scores = spec.targets(faces)
    decoded = decode(boxes[:, :4], anchor_grid(anchors, 96, 128), "corners")[scores > 0] * [128, 96, 128, 96]
    assert {tuple(row) for row in decoded.round(2).tolist()} == {tuple(row) for row in faces.tolist()}
    _, targets = FaceDataset(records, spec, 3)[0]
    together = [spec.targets(s.boxes_xyxy_px) for s in (_whole(record) for record in records[:3])]
    for place, shot in enumerate(("", "first_")):
        for index, (boxes, scores) in enumerate(together):
            np.testing.assert_array_equal(targets[f"{shot}boxes"][index], boxes[place::2])
            np.testing.assert_array_equal(targets[f"{shot}scores"][index], scores[place::2])


def _whole(record: Record) -> Sample:
    return validation_sample(Sample(read_rgb(record.image), record.boxes_xyxy_px), 96, 128)


def test_anchors_between_the_thresholds_are_neither_face_nor_background() -> None:
    compensation = Compensation(negative_iou=0.2, average_matches=0, super_match=False)
    spec = TargetSpec(AnchorSpec(code="corners"), 96, 128, 0.5, compensation=compensation)
    boxes, scores = spec.targets(np.array([[10, 10, 40, 50]], np.float32))
    assert set(scores.tolist()) == {-1, 0, 1}
    assert not boxes[scores < 1].any()


def test_no_faces_no_positives() -> None:
    boxes, scores = SPEC.targets(np.zeros((0, 4), np.float32))
    assert not boxes.any()
    assert not scores.any()


def test_batches_have_the_announced_shapes(records: list[Record]) -> None:
    dataset = FaceDataset(records, SPEC, 5, RECIPE)
    images, targets = dataset[0]
    anchors = len(anchor_grid(SPEC.anchors, 96, 128))
    assert len(dataset) == 3
    assert images.shape == (5, 96, 128, 3)
    assert images.dtype == np.float32
    assert targets["boxes"].shape == (5, anchors, 5)
    assert targets["scores"].shape == (5, anchors)
    assert len(FaceDataset(records, SPEC, 5)) == 4
    assert len(FaceDataset(records, SPEC, 5)[3][0]) == 1


def test_a_batch_depends_on_seed_epoch_and_index_alone(records: list[Record]) -> None:
    one = FaceDataset(records, SPEC, 4, RECIPE, seed=3, epoch=2)
    two = FaceDataset(records, SPEC, 4, RECIPE, seed=3, epoch=0, workers=2)
    two.epoch = 2
    assert _equal(one[1], two[1])
    assert not _equal(one[1], one[0])
    assert not _equal(one[1], FaceDataset(records, SPEC, 4, RECIPE, seed=3, epoch=3)[1])
    assert not _equal(one[1], FaceDataset(records, SPEC, 4, RECIPE, seed=4, epoch=2)[1])


def test_an_epoch_shows_every_image_once(records: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def read(path: Path) -> np.ndarray:
        seen.append(path.name)
        return np.zeros((50, 50, 3), np.uint8)

    monkeypatch.setattr("lib.data.loader.read_rgb", read)
    dataset = FaceDataset(records, SPEC, 4, RECIPE)
    for index in range(len(dataset)):
        dataset[index]
    assert sorted(seen) == sorted(record.image.name for record in records)


def _with_broken(records: list[Record], count: int, tmp_path: Path) -> list[Record]:
    broken = []
    for i, record in enumerate(records[:count]):
        file = tmp_path / f"{i}.jpg"
        file.write_bytes(record.image.read_bytes()[:2000])
        broken.append(Record(f"broken {i}", file, record.boxes_xyxy_px, f"gt.txt:{i}"))
    return [*broken, *records[count:]]


def test_one_unreadable_image_is_named_once_and_replaced(
    records: list[Record], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = FaceDataset(_with_broken(records, 1, tmp_path), SPEC, 4, RECIPE)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert all(len(dataset[index][0]) == 4 for index in range(len(dataset)))
    assert len(caplog.records) == 1
    assert f"{tmp_path / '0.jpg'}: cut short" in caplog.text
    assert "gt.txt:0" in caplog.text


def test_many_unreadable_images_stop_the_run(records: list[Record], tmp_path: Path) -> None:
    dataset = FaceDataset(_with_broken(records, 2, tmp_path), SPEC, 4)
    with pytest.raises(DataError, match="2 of 16 images cannot be read, over 1%"):
        dataset[0]


def test_nothing_to_train_on() -> None:
    with pytest.raises(DataError, match="no images"):
        FaceDataset([], SPEC, 4, RECIPE)
