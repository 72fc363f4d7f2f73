"""SimOTA and its loss against plain loops."""

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from lib.arrays import FloatArray
from lib.config import Config
from lib.data.annotations import Record, read_annotations
from lib.data.batches import MAX_FACES, TargetSpec
from lib.data.scenes import SampleSet
from lib.geometry.anchors import anchor_grid, decode, encode
from lib.geometry.boxes import iou_matrix
from lib.models import anchors_of, save
from lib.models.yunet import yunet
from lib.runs.wiring import make_trainer
from lib.training.simota import MatchingLoss, matched
from tests.detectors import SMALL_YUNET, small_detector
from tests.networks import lively

SIZE = (64, 96)
ANCHORS = anchors_of(yunet(stages=(4, 4, 4, 4, 4, 4)))
SIDES = np.tile(np.array(SIZE[::-1], np.float32), 2)
FACES = np.array([[8, 8, 40, 44], [12, 10, 44, 50], [70, 20, 78, 27], [60, 40, 90, 60]], np.float32)


# Of the third face none are known.
LANDMARKS = np.array([[0.3, 0.35], [0.7, 0.3], [0.5, 0.6], [0.35, 0.8], [0.65, 0.75]], np.float32)
LANDMARKS = FACES[:, None, :2] + LANDMARKS * (FACES[:, None, 2:] - FACES[:, None, :2])
LANDMARKS[2] = np.nan


def _predictions(rng: np.random.Generator, noise: float = 0.2) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Offsets, their boxes in px, and logits; each cell predicts some face roughly."""
    grid = anchor_grid(ANCHORS, *SIZE)
    nearest = rng.integers(len(FACES), size=len(grid))
    offsets = encode(FACES[nearest] / SIDES, grid, "plain")
    offsets += rng.normal(0, noise, offsets.shape).astype(np.float32)
    return offsets, decode(offsets, grid, "plain") * SIDES, rng.normal(0, 2, (len(grid), 2)).astype(np.float32)


def _by_loops(boxes: FloatArray, scores: FloatArray, cells: FloatArray) -> dict[int, int]:
    """Cell -> face, as YOLOX's section 2.1 and its code say it, a face at a time."""
    cost = np.full((len(cells), len(FACES)), np.inf)
    overlap = iou_matrix(boxes, FACES)
    for face, (x1, y1, x2, y2) in enumerate(FACES):
        for cell, (left, top, side, _) in enumerate(cells):
            x, y = left + side / 2, top + side / 2
            inside = x1 < x < x2 and y1 < y < y2
            reach = 2.5 * side
            near = abs(x - (x1 + x2) / 2) < reach and abs(y - (y1 + y2) / 2) < reach
            if inside or near:
                cost[cell, face] = -3 * np.log(overlap[cell, face] + 1e-7) - np.log(scores[cell] + 1e-7)
                cost[cell, face] += 0 if inside and near else 1e5
    wishes: dict[int, list[int]] = {}
    for face in range(len(FACES)):
        candidates = np.flatnonzero(np.isfinite(cost[:, face]))
        best = np.sort(overlap[candidates, face])[::-1][:10]
        count = max(1, int(best.sum()))
        for cell in candidates[np.argsort(cost[candidates, face], kind="stable")][:count]:
            wishes.setdefault(int(cell), []).append(face)
    return {cell: min(faces, key=lambda face: cost[cell, face]) for cell, faces in wishes.items()}


def test_matching_is_that_of_plain_loops(rng: np.random.Generator) -> None:
    cells = anchor_grid(ANCHORS, *SIZE) * SIDES
    for noise in (0.05, 0.3, 1.0):
        _, boxes, logits = _predictions(rng, noise)
        scores = np.exp(-np.logaddexp(0, -logits).mean(axis=1))
        faces = np.zeros((1, 7, 4), np.float32)
        faces[0, : len(FACES)] = FACES
        real = np.array([[1, 1, 1, 1, 0, 0, 0]], np.float32)
        chosen = np.asarray(matched(boxes[None], scores[None], faces, real, cells))[0]
        assert set(np.unique(chosen)) == {0, 1}
        assert chosen.sum(axis=1).max() == 1
        found = {int(cell): int(face) for cell, face in zip(*np.nonzero(chosen), strict=True)}
        assert found == _by_loops(boxes, scores, cells)
        assert set(found.values()) == {0, 1, 2, 3}


def _truth(landmarks_px: FloatArray | None = LANDMARKS) -> dict[str, FloatArray]:
    targets = TargetSpec(ANCHORS, *SIZE).of_image(FACES, landmarks_px=landmarks_px)
    return {name: value[None] for name, value in targets.items()}


def test_the_terms_are_those_of_the_formulas(rng: np.random.Generator) -> None:
    offsets, boxes, logits = _predictions(rng)
    cells = anchor_grid(ANCHORS, *SIZE) * SIDES
    points = rng.normal(0, 2, (len(cells), 10)).astype(np.float32)
    matches = _by_loops(boxes, np.exp(-np.logaddexp(0, -logits).mean(axis=1)), cells)
    eiou = of_class = of_points = 0.0
    for cell, face in matches.items():
        a, b = boxes[cell].astype(np.float64), FACES[face].astype(np.float64)
        iou = iou_matrix(a[None], b[None])[0, 0]
        hull = np.maximum(a[2:], b[2:]) - np.minimum(a[:2], b[:2])
        apart = ((a[:2] + a[2:]) - (b[:2] + b[2:])) / 2
        sides = (a[2:] - a[:2]) - (b[2:] - b[:2])
        eiou += 1 - iou + (apart**2).sum() / (hull**2).sum() + (sides**2 / hull**2).sum()
        of_class += np.logaddexp(0, logits[cell, 0]) - iou * logits[cell, 0]
        if face != 2:
            wanted = (LANDMARKS[face] - cells[cell, :2]) / cells[cell, 2]
            for apart in np.abs(points[cell] - wanted.ravel()):
                of_points += apart**2 / (2 / 9) if apart < 1 / 9 else apart - 1 / 18
    is_face = np.zeros(len(cells))
    is_face[list(matches)] = 1
    of_object = (np.logaddexp(0, logits[:, 1]) - is_face * logits[:, 1]).sum()
    outputs = {"boxes": offsets[None], "scores": logits[None], "landmarks": points[None]}
    images, loss = np.zeros((1, *SIZE, 3), np.float32), MatchingLoss(ANCHORS)
    terms = loss.terms(images, _truth(), outputs)
    assert tuple(terms) == loss.names
    np.testing.assert_allclose(float(terms["boxes_loss"]), 5 * eiou / len(matches), rtol=1e-4)
    np.testing.assert_allclose(float(terms["scores_loss"]), (of_class + of_object) / len(matches), rtol=1e-4)
    known = [face for face in matches.values() if face != 2]
    assert 0 < len(known) < len(matches)
    np.testing.assert_allclose(float(terms["landmarks_loss"]), 0.1 * of_points / len(known), rtol=1e-4)

    unknown = loss.terms(images, _truth(None), outputs)
    assert float(unknown["landmarks_loss"]) == 0
    without = MatchingLoss(replace(ANCHORS, landmarks=0))
    assert without.names == ("boxes_loss", "scores_loss")
    plain = {name: float(term) for name, term in without.terms(images, _truth(), outputs).items()}
    assert float(sum(unknown.values())) == pytest.approx(sum(plain.values()), rel=1e-6)
    for found in (terms, unknown):
        assert plain == {name: float(found[name]) for name in without.names}


def test_perfect_boxes_cost_nothing_and_unknown_cells_count_for_nothing(rng: np.random.Generator) -> None:
    grid = anchor_grid(ANCHORS, *SIZE)
    face = np.tile(FACES[3] / SIDES, (len(grid), 1))
    outputs = {"boxes": encode(face, grid, "plain")[None], "scores": rng.normal(0, 1, (1, len(grid), 2))}
    outputs["scores"] = outputs["scores"].astype(np.float32)
    outputs["landmarks"] = np.zeros((1, len(grid), 10), np.float32)
    truth = {name: value[None] for name, value in TargetSpec(ANCHORS, *SIZE).of_image(FACES[3:]).items()}
    images = np.zeros((1, *SIZE, 3), np.float32)
    assert float(MatchingLoss(ANCHORS).terms(images, truth, outputs)["boxes_loss"]) < 1e-4
    unknown = {name: value[None] for name, value in TargetSpec(ANCHORS, *SIZE).of_image(FACES[:0], False).items()}
    assert all(float(term) == 0 for term in MatchingLoss(ANCHORS).terms(images, unknown, outputs).values())


def test_the_smallest_of_too_many_faces_are_neither_face_nor_background(rng: np.random.Generator) -> None:
    corners = rng.uniform(0, 40, (MAX_FACES, 2))
    many = np.concatenate([corners, corners + 30], axis=1).astype(np.float32)
    small = np.array([[79, 57, 93, 63]], np.float32)  # the centres of two cells of stride 8 within
    targets = TargetSpec(ANCHORS, *SIZE).of_image(np.concatenate([small, many]))
    assert targets["boxes"][:, 4].sum() == MAX_FACES
    cells = anchor_grid(ANCHORS, *SIZE) * SIDES
    unknown = (cells[:, :2] + cells[:, 2:] / 2)[targets["scores"] < 0]
    assert len(unknown) == 2
    assert ((unknown >= small[0, :2]) & (unknown <= small[0, 2:])).all()


def _marked(record: Record) -> Record:
    """With landmarks at fixed shares of each box, below it: far off for a network that knows nothing of them."""
    first, last = record.boxes_xyxy_px[:, None, :2], record.boxes_xyxy_px[:, None, 2:]
    shares = np.array([[0.3, 1.9], [0.7, 1.9], [0.5, 2.1], [0.35, 2.3], [0.65, 2.3]], np.float32)
    return replace(record, landmarks_px=first + shares * (last - first))


@pytest.mark.parametrize("taught", [False, True])
def test_a_yunet_learns(taught: bool, samples: SampleSet, tmp_path: Path, rng: np.random.Generator) -> None:
    """Without a teacher also landmarks, by the labels of three of four images; with one no label has any."""
    model = lively(small_detector(channels=16, anchors=SMALL_YUNET), rng)
    config = Config()
    config.DATA.hin = config.DATA.win = 64
    config.TRAIN.batch_size, config.TRAIN.process_num = 4, 1
    if taught:
        teacher = keras.models.clone_model(model)
        teacher.set_weights([weight + rng.normal(0, 0.02, weight.shape) for weight in model.get_weights()])
        save(teacher, tmp_path / "teacher.keras")
        config.DISTIL.teacher = str(tmp_path / "teacher.keras")
    trainer = make_trainer(model, config)
    records = read_annotations(samples.train_annotations, samples.train_images)[:8]
    if not taught:
        records = [_marked(record) if index % 4 else record for index, record in enumerate(records)]
    dataset, whole = trainer.dataset(records * 8, augment=True), trainer.dataset(records, augment=False)
    before = trainer.validate(whole)
    assert set(before) == {"loss", "boxes_loss", "scores_loss", "landmarks_loss"}
    assert before["loss"] == pytest.approx(sum(before.values()) - before["loss"], rel=1e-5)
    trainer.train_steps(dataset, 0, 120, 3e-3)
    assert trainer.traces == 1
    after = trainer.validate(whole)
    assert after["loss"] < 0.8 * before["loss"]
    if taught:
        assert before["landmarks_loss"] == after["landmarks_loss"] == 0
    else:
        assert after["landmarks_loss"] < 0.75 * before["landmarks_loss"]
