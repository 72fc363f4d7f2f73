import logging
import multiprocessing
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import pytest

from lib.data.annotations import Record, read_annotations
from lib.data.augment import MEAN_RGB, Sample, keep_targets
from lib.data.batches import MAX_FACES, BatchSettings, FaceDataset, TargetSpec, face_dataset
from lib.data.images import read_rgb
from lib.data.recipes import Recipe, validation_sample
from lib.data.scenes import SampleSet
from lib.errors import DataError
from lib.geometry.anchors import AnchorSpec, anchor_grid, decode
from lib.geometry.compensation import Compensation
from lib.training.losses import BoxLoss, FocalLoss, ScoreLoss

SPEC = TargetSpec(AnchorSpec(), 96, 128)
RECIPE = Recipe(96, 128)


@pytest.fixture
def records(samples: SampleSet) -> list[Record]:
    return read_annotations(samples.train_annotations, samples.train_images)


def _equal(a: Any, b: Any) -> bool:
    return np.array_equal(a[0], b[0]) and all(np.array_equal(a[1][k], b[1][k]) for k in ("boxes", "scores"))


@pytest.mark.parametrize("shots", [("",), ("", "first_")])
def test_an_image_without_labels_pulls_at_nothing(records: list[Record], shots: tuple[str, ...]) -> None:
    """No anchor of it is a face or background, and the images beside it are as they would be."""
    nothing = replace(records[0], boxes_xyxy_px=np.zeros((0, 4), np.float32), invalid=None, labelled=False)
    spec = replace(SPEC, shots=shots)
    for recipe in (None, RECIPE):
        _, whole = FaceDataset([records[1], records[0]], spec, 2, recipe)[0]
        _, targets = FaceDataset([records[1], nothing], spec, 2, recipe)[0]
        for shot in shots:
            alone = (targets[f"{shot}scores"] == -1).all(axis=1)
            assert sorted(alone) == [False, True]
            for kind in ("scores", "boxes"):
                name = f"{shot}{kind}"
                np.testing.assert_array_equal(targets[name][~alone], whole[name][~alone])
            assert not targets[f"{shot}boxes"][alone].any()
            predicted = np.ones((1, targets[f"{shot}scores"].shape[1], 4), np.float32)
            assert float(BoxLoss()(targets[f"{shot}boxes"][alone], predicted)) == 0
            for loss in (ScoreLoss(), ScoreLoss(over="batch"), FocalLoss()):
                assert float(loss(targets[f"{shot}scores"][alone], predicted[..., :2])) == 0


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
    whole = validation_sample(Sample(read_rgb(record.image), record.boxes_xyxy_px), 96, 128)
    return keep_targets(whole, 0)


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


MATCHED = TargetSpec(AnchorSpec((8, 16), (8, 16), 1.0, code="plain", place=0.0, landmarks=5), 96, 128)


def test_landmarks_are_targets_in_the_order_of_the_faces() -> None:
    faces = np.array([[10, 10, 20, 20], [40, 20, 80, 60], [0, 0, 12, 12]], np.float32)
    points = np.arange(30, dtype=np.float32).reshape(3, 5, 2)
    points[2, 4, 0] = np.nan
    targets = MATCHED.of_image(faces, landmarks_px=points)
    assert targets.keys() == {"boxes", "scores", "landmarks"}
    assert targets["landmarks"].shape == (MAX_FACES, 11)
    for row, face in ((0, 1), (2, 0)):
        np.testing.assert_allclose(targets["boxes"][row, :4] * [128, 96, 128, 96], faces[face], rtol=1e-6)
        np.testing.assert_allclose(targets["landmarks"][row, :10] * ([128, 96] * 5), points[face].ravel(), rtol=1e-6)
        assert targets["landmarks"][row, 10] == 1
    assert not np.delete(targets["landmarks"], [0, 2], axis=0).any()
    many = MATCHED.of_image(np.repeat(faces, 30, axis=0), landmarks_px=np.repeat(points, 30, axis=0))
    assert many["landmarks"][:, 10].tolist() == [1] * 30 + [0] * 30 + [1] * 4


def test_without_landmarks_in_the_labels_their_targets_are_zeros_and_without_a_detectors_there_are_none() -> None:
    faces = np.array([[40, 20, 80, 60]], np.float32)
    found = MATCHED.of_image(faces)["landmarks"]
    assert found.shape == (MAX_FACES, 11)
    assert not found.any()
    points = np.ones((1, 5, 2), np.float32)
    plain = replace(MATCHED, anchors=replace(MATCHED.anchors, landmarks=0))
    assert plain.of_image(faces, landmarks_px=points).keys() == {"boxes", "scores"}
    assert SPEC.of_image(faces, landmarks_px=points).keys() == {"boxes", "scores"}


@pytest.mark.parametrize("recipe", [None, Recipe(256, 320, crop_min=1, anchor_sampling=0)], ids=["val", "train"])
def test_batches_have_landmarks_of_the_faces_that_are_targets(records: list[Record], recipe: Recipe | None) -> None:
    """An image whose labels have some beside one whose labels have none; invalid faces' are no targets."""
    one, two = [record for record in records if len(record.boxes_xyxy_px) > 2][:2]
    boxes = one.boxes_xyxy_px
    centres = ((boxes[:, :2] + boxes[:, 2:]) / 2)[:, None].repeat(5, axis=1)
    one = replace(one, landmarks_px=centres, invalid=np.arange(len(boxes)) == 0)
    dataset = FaceDataset([one, two], replace(MATCHED, height_px=256, width_px=320), 2, recipe)
    _, targets = dataset[0]
    assert targets["landmarks"].shape == (2, MAX_FACES, 11)
    known = targets["landmarks"][..., 10] > 0
    assert 0 < known.sum() < len(boxes)
    assert known.any(axis=1).sum() == 1
    if recipe is None:
        faces = targets["boxes"][known][:, :4]
        np.testing.assert_allclose(targets["landmarks"][known][:, :2], (faces[:, :2] + faces[:, 2:]) / 2, atol=1e-6)


def test_batches_have_the_announced_shapes(records: list[Record]) -> None:
    dataset = FaceDataset(records, SPEC, 5, RECIPE)
    images, targets = dataset[0]
    anchors = len(anchor_grid(SPEC.anchors, 96, 128))
    assert len(dataset) == 3
    assert images.shape == (5, 96, 128, 3)
    assert images.dtype == np.uint8
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


_DATASET: FaceDataset | None = None


def _batch(index: int) -> Any:
    assert _DATASET is not None
    return _DATASET[index]


def _fork(workers: int) -> Executor:
    return ProcessPoolExecutor(workers, multiprocessing.get_context("fork"))


@pytest.mark.parametrize("pool", [ThreadPoolExecutor, _fork], ids=["threads", "processes"])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_batches_do_not_depend_on_the_workers(
    records: list[Record], pool: Any, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"recipe": RECIPE, "seed": 3, "epoch": 2, "sizes_px": (64, 96, 128)}
    alone = FaceDataset(records, SPEC, 2, **settings)
    wanted = [alone[index] for index in range(len(alone))]
    monkeypatch.setitem(globals(), "_DATASET", FaceDataset(records, SPEC, 2, **settings))
    # OpenCV's own threads do not survive a fork.
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with pool(workers) as executor:
            backwards = list(executor.map(_batch, reversed(range(len(alone)))))
    finally:
        cv2.setNumThreads(threads)
    assert all(_equal(a, b) for a, b in zip(wanted, reversed(backwards), strict=True))


def test_an_epoch_shows_every_image_once(records: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def read(path: Path) -> np.ndarray:
        seen.append(path.name)
        return read_rgb(path)

    monkeypatch.setattr("lib.data.fit.read_rgb", read)
    dataset = FaceDataset(records, SPEC, 4, RECIPE)
    for index in range(len(dataset)):
        dataset[index]
    assert sorted(seen) == sorted(record.image.name for record in records)


def test_multi_scale_sizes_come_from_seed_epoch_and_index(records: list[Record]) -> None:
    def sizes(seed: int, epoch: int) -> list[int]:
        dataset = FaceDataset(records, SPEC, 1, RECIPE, seed=seed, epoch=epoch, sizes_px=(64, 96, 128))
        return [dataset[index][0].shape[1] for index in range(len(dataset))]

    drawn = [sizes(0, epoch) for epoch in range(6)]
    assert drawn[2] == sizes(0, 2)
    assert len({tuple(row) for row in drawn}) == 6
    assert tuple(sizes(1, 0)) != tuple(drawn[0])
    counts = np.unique(drawn, return_counts=True)
    assert counts[0].tolist() == [64, 96, 128]
    assert counts[1].min() > 6 * 16 / 5
    assert all(a != b for row in drawn for a, b in pairwise(row))  # or Keras might take the size for fixed


def test_multi_scale_batches_are_square_with_their_own_anchors(records: list[Record]) -> None:
    dataset = FaceDataset(records, SPEC, 4, RECIPE, sizes_px=(64, 96, 128))
    for index in range(len(dataset)):
        images, targets = dataset[index]
        size = images.shape[1]
        assert images.shape == (4, size, size, 3)
        assert targets["boxes"].shape == (4, len(anchor_grid(SPEC.anchors, size, size)), 5)


def test_images_without_faces_are_all_background(records: list[Record]) -> None:
    faceless = [Record(r.name, r.image, np.zeros((0, 4), np.float32), r.origin) for r in records]
    for recipe in (RECIPE, Recipe(96, 128, name="dsfd"), None):
        images, targets = FaceDataset(faceless, SPEC, 8, recipe)[0]
        assert len(np.unique(images)) > 100
        assert not targets["scores"].any()
        assert not targets["boxes"].any()


def _one_record(records: list[Record]) -> Record:
    return next(r for r in records if len(r.boxes_xyxy_px) > 2)


@pytest.mark.parametrize("recipe", [None, Recipe(256, 320, crop_min=1, anchor_sampling=0)], ids=["val", "train"])
def test_invalid_faces_are_painted_over_and_no_targets(records: list[Record], recipe: Recipe | None) -> None:
    record = _one_record(records)
    invalid = np.arange(len(record.boxes_xyxy_px)) == 1
    flagged = [Record(record.name, record.image, record.boxes_xyxy_px, record.origin, invalid)]
    spec = TargetSpec(AnchorSpec(), 256, 320)
    images, targets = FaceDataset(flagged, spec, 1, recipe)[0]
    plain_images, plain_targets = FaceDataset(flagged, spec, 1, recipe, ignore_invalid=False)[0]
    assert 0 < targets["scores"].sum() < plain_targets["scores"].sum()
    changed = (images != plain_images).any(axis=3)[0]
    assert (images[0][changed] == MEAN_RGB).all()
    assert changed.sum() > 0.9 * np.prod(record.boxes_xyxy_px[1, 2:] - record.boxes_xyxy_px[1, :2])


@pytest.mark.parametrize("recipe", [None, Recipe(256, 320, crop_min=1, anchor_sampling=0)], ids=["val", "train"])
def test_small_faces_are_painted_over(records: list[Record], recipe: Recipe | None) -> None:
    record = _one_record(records)
    sizes = np.sqrt(np.prod(record.boxes_xyxy_px[:, 2:] - record.boxes_xyxy_px[:, :2], axis=1))
    limit = float(np.sort(sizes)[:2].mean())
    spec = TargetSpec(AnchorSpec(), 256, 320)
    images, targets = FaceDataset([record], spec, 1, recipe, cover_px=limit)[0]
    plain_images, plain_targets = FaceDataset([record], spec, 1, recipe)[0]
    assert 0 < targets["scores"].sum() < plain_targets["scores"].sum()
    assert (images[0][(images != plain_images).any(axis=3)[0]] == MEAN_RGB).all()


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
    with pytest.raises(DataError, match="2 of 16 images cannot be used, over 1%"):
        dataset[0]


def test_nothing_to_train_on() -> None:
    with pytest.raises(DataError, match="no images"):
        FaceDataset([], SPEC, 4, RECIPE)


def _damaged(image: Path, kind: str, folder: Path) -> Path:
    file = folder / f"{kind}{image.suffix}"
    data = image.read_bytes()
    content = {"empty": b"", "text": b"<html>404</html>", "cut": data[: len(data) // 2], "head": data[:3]}[kind]
    file.write_bytes(content)
    return file


@pytest.mark.parametrize("kind", ["empty", "text", "cut", "head", "missing"])
def test_every_kind_of_damage_is_noticed(records: list[Record], tmp_path: Path, kind: str) -> None:
    bad = tmp_path / "missing.jpg" if kind == "missing" else _damaged(records[0].image, kind, tmp_path)
    broken = [Record("bad", bad, records[0].boxes_xyxy_px, "gt.txt:1"), *records[1:]]
    dataset = FaceDataset(broken, SPEC, 16, RECIPE)
    assert len(dataset[0][0]) == 16
    assert dataset.unreadable == 1


def test_one_unreadable_image_in_a_thousand_is_named_once_over_epochs(
    records: list[Record], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small = [Record(r.name, _small_copy(r, tmp_path), r.boxes_xyxy_px / 8, r.origin) for r in records]
    many = [small[i % len(small)] for i in range(1000)]
    many[437] = _with_broken(records, 1, tmp_path)[0]
    dataset = FaceDataset(many, TargetSpec(AnchorSpec(), 32, 32), 100, Recipe(32, 32))
    with caplog.at_level(logging.WARNING):
        for epoch in range(2):
            dataset.epoch = epoch
            assert sum(len(dataset[index][0]) for index in range(len(dataset))) == 1000
    assert dataset.unreadable == len(caplog.records) == 1


def _small_copy(record: Record, folder: Path) -> Path:
    image = cv2.imread(str(record.image))
    file = folder / f"small_{record.image.name}"
    cv2.imwrite(str(file), cv2.resize(image, None, fx=1 / 8, fy=1 / 8))
    return file


def test_worker_processes_count_together(
    records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = _with_broken(records, 2, tmp_path)
    dataset = FaceDataset([bad[0], *records[1:4], bad[1], *records[5:]], SPEC, 4)
    monkeypatch.setitem(globals(), "_DATASET", dataset)
    with _fork(1) as executor:
        executor.submit(_batch, 0).result()
    assert dataset.unreadable == 1
    with _fork(1) as executor, pytest.raises(DataError, match="2 of 16 images cannot be used, over 1%"):
        executor.submit(_batch, 1).result()


ONE_LEVEL = TargetSpec(AnchorSpec(strides=(8,), sizes=(32,)), 96, 128)


@pytest.fixture
def network() -> keras.Model:
    """The least that can be trained on one level of anchors."""
    image = keras.Input((None, None, 3))
    features = keras.layers.Conv2D(6, 8, strides=8)(keras.layers.Rescaling(1 / 127.5, -1)(image))
    boxes = keras.layers.Reshape((-1, 4))(features[..., :4])
    return keras.Model(image, {"boxes": boxes, "scores": keras.layers.Reshape((-1, 2))(features[..., 4:])})


def _compiled(model: keras.Model) -> list[tuple[int | None, ...]]:
    """Compiles the model; returns a list that fills with the shape of the input every time the step is traced."""
    traced: list[tuple[int | None, ...]] = []

    class Counting(ScoreLoss):
        def call(self, y_true: Any, y_pred: Any) -> Any:
            traced.append(tuple(y_true.shape))
            return super().call(y_true, y_pred)

    optimizer = keras.optimizers.SGD(1e-3)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer, loss={"boxes": BoxLoss(), "scores": Counting()}, jit_compile=False)
    return traced


def test_new_sizes_are_not_traced_anew(records: list[Record], network: keras.Model) -> None:
    if keras.backend.backend() != "tensorflow":
        pytest.skip("other backends trace once a size")
    traced = _compiled(network)
    dataset = FaceDataset(records, ONE_LEVEL, 2, RECIPE, sizes_px=(64, 96, 128, 160))
    counts = []
    for epoch in range(3):
        dataset.epoch = epoch
        network.fit(dataset, epochs=1, verbose=0, shuffle=False)
        counts.append(len(traced))
    assert len({dataset[index][0].shape for index in range(len(dataset))}) >= 3
    assert counts[0] <= 2  # Keras looks through the step once before it is traced
    assert counts[1:] == [counts[0]] * 2


def test_bytes_train_and_validate_like_floats(records: list[Record], network: keras.Model) -> None:
    dataset = FaceDataset(records, ONE_LEVEL, 8, RECIPE)
    images, targets = dataset[0]
    _compiled(network)
    start = network.get_weights()
    outcomes = []
    for kind in (np.uint8, np.float32):
        network.set_weights(start)
        losses = network.evaluate(images.astype(kind), targets, batch_size=8, verbose=0)
        network.train_on_batch(images.astype(kind), targets)
        outcomes.append([np.asarray(losses), *network.get_weights()])
    assert all(np.array_equal(a, b) for a, b in zip(*outcomes, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(start, network.get_weights(), strict=True))


def test_a_batch_without_any_face_trains(records: list[Record], network: keras.Model) -> None:
    faceless = [Record(r.name, r.image, np.zeros((0, 4), np.float32), r.origin) for r in records]
    _compiled(network)
    history = network.fit(FaceDataset(faceless, ONE_LEVEL, 8, RECIPE), verbose=0, shuffle=False).history
    assert all(np.isfinite(values).all() for values in history.values())
    assert all(np.isfinite(weight).all() for weight in network.get_weights())


def test_settings_become_a_dataset(records: list[Record]) -> None:
    settings = BatchSettings(
        96, 128, batch_size=4, seed=7, recipe="dsfd", crop_min=0.4, anchor_sampling=0.1, cover_px=5.0,
        ignore_invalid=False, workers=3, prefetch=5,
    )  # fmt: skip
    train = face_dataset(settings, records, AnchorSpec(), augment=True, epoch=2)
    assert train.recipe == Recipe(96, 128, 0.4, 0.1, AnchorSpec().sizes, "dsfd")
    assert (train.seed, train.epoch, train.batch_size, train.workers, train.max_queue_size) == (7, 2, 4, 3, 5)
    assert (train.cover_px, train.ignore_invalid, train.sizes_px) == (5, False, ())
    many = replace(settings, sizes_px=(64, 96, 128, 160))
    assert face_dataset(many, records, AnchorSpec(), augment=True).sizes_px == (64, 96, 128, 160)
    validation = face_dataset(many, records, AnchorSpec(), augment=False)
    assert validation.recipe is None
    assert validation.sizes_px == ()
    assert validation[0][0].shape == (4, 96, 128, 3)


@pytest.mark.parametrize("code", ["centre", "corners"])
def test_the_matcher_is_a_value_of_its_own(records: list[Record], code: Any) -> None:
    anchors = replace(AnchorSpec(), code=code)
    two_stages = face_dataset(BatchSettings(96, 96), records, anchors, augment=False)
    assert two_stages.target_spec.compensation is None
    compensated = face_dataset(BatchSettings(96, 96, compensation=Compensation()), records, anchors, augment=False)
    assert compensated.target_spec.compensation == Compensation()
