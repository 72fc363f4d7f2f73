from pathlib import Path

import numpy as np
import pytest

from lib.arrays import FloatArray
from lib.data.annotations import Record, read_annotations
from lib.data.images import write_rgb
from lib.data.scenes import SampleSet
from lib.evaluation.ap import average_precision, evaluate
from tests.conftest import random_boxes


def _scored(boxes: FloatArray, scores: list[float]) -> FloatArray:
    return np.column_stack([boxes, scores]).astype(np.float32)


FACES = np.array([[0, 0, 10, 10], [20, 20, 40, 40]], np.float32)
ELSEWHERE = np.array([[60, 60, 70, 70]], np.float32)
NOTHING = np.zeros((0, 5), np.float32)


def test_perfect_detections() -> None:
    assert average_precision([_scored(FACES, [0.9, 0.8])], [FACES]) == 1.0


def test_no_detections() -> None:
    assert average_precision([NOTHING], [FACES]) == 0.0


def test_a_false_positive_above_costs_and_below_does_not() -> None:
    boxes = np.concatenate([FACES, ELSEWHERE])
    assert average_precision([_scored(boxes, [0.9, 0.8, 0.1])], [FACES]) == 1.0
    assert average_precision([_scored(boxes, [0.9, 0.8, 0.95])], [FACES]) == pytest.approx(2 / 3)


def test_by_hand() -> None:
    # hit (precision 1, recall 1/2), miss, hit (precision 2/3, recall 1): 1/2 * 1 + 1/2 * 2/3
    boxes = np.concatenate([FACES[:1], ELSEWHERE, FACES[1:]])
    assert average_precision([_scored(boxes, [0.9, 0.8, 0.7])], [FACES]) == pytest.approx(0.5 + 1 / 3)


def test_second_hit_of_a_face_is_a_false_positive() -> None:
    boxes = np.concatenate([FACES[:1], FACES[:1], FACES[1:]])
    assert average_precision([_scored(boxes, [0.9, 0.8, 0.7])], [FACES]) == pytest.approx(0.5 + 1 / 3)


def test_equal_scores_do_not_depend_on_order() -> None:
    boxes = np.concatenate([FACES, ELSEWHERE])
    forth, back = _scored(boxes, [0.5, 0.5, 0.5]), _scored(boxes[::-1], [0.5, 0.5, 0.5])
    assert average_precision([forth], [FACES]) == average_precision([back], [FACES]) == pytest.approx(2 / 3)


def test_order_of_detections_does_not_matter(rng: np.random.Generator) -> None:
    faces = [random_boxes(rng, 6) for _ in range(5)]
    found = [_scored(f + rng.normal(0, 2, f.shape), rng.random(6).tolist()) for f in faces]
    shuffled = [f[rng.permutation(6)] for f in found]
    assert average_precision(found, faces) == average_precision(shuffled, faces)


def test_faceless_images_only_cost_false_positives() -> None:
    nobody = np.zeros((0, 4), np.float32)
    good = _scored(FACES, [0.9, 0.8])
    assert average_precision([good, NOTHING], [FACES, nobody]) == 1.0
    assert average_precision([good, _scored(ELSEWHERE, [0.95])], [FACES, nobody]) == pytest.approx(2 / 3)


def test_undefined_without_faces() -> None:
    with pytest.raises(ValueError, match="not defined"):
        average_precision([NOTHING], [np.zeros((0, 4))])
    with pytest.raises(ValueError, match="expected as many"):
        average_precision([], [FACES])


class _Oracle:
    """Finds exactly the annotated faces, by the image's mean colour."""

    def __init__(self, records: list[Record]) -> None:
        self.left = [_scored(r.boxes_xyxy_px, [0.9] * len(r.boxes_xyxy_px)) for r in records]

    def __call__(self, image: np.ndarray, score_threshold: float) -> FloatArray:
        return self.left.pop(0)


def test_a_broken_detector_has_no_ap(samples: SampleSet, tmp_path: Path) -> None:
    records = read_annotations(samples.val_annotations, samples.val_images)

    def broken(*_: object) -> FloatArray:
        raise ValueError("shapes do not fit")

    with pytest.raises(ValueError, match="shapes do not fit"):
        evaluate(broken, records)

    small = tmp_path / "small.png"
    write_rgb(small, np.zeros((15, 40, 3), np.uint8))
    tiny = [Record("small", small, records[0].boxes_xyxy_px, "a:1"), *records[1:]]
    _, unusable = evaluate(_Oracle(records[1:]), tiny)
    assert unusable == 1


def test_evaluate_reads_images_and_counts_unreadable_ones_as_missed(samples: SampleSet, tmp_path: Path) -> None:
    records = read_annotations(samples.val_annotations, samples.val_images)
    seen: list[tuple[int, int]] = []
    ap, unreadable = evaluate(_Oracle(records), records, progress=lambda *done: seen.append(done))
    assert (ap, unreadable) == (1.0, 0)
    assert seen == [(i + 1, len(records)) for i in range(len(records))]

    broken = tmp_path / "broken.jpg"
    broken.write_bytes(records[0].image.read_bytes()[:1000])
    damaged = [Record("broken", broken, records[0].boxes_xyxy_px, "a:1"), *records[1:]]
    ap, unreadable = evaluate(_Oracle(records[1:]), damaged)
    total = sum(len(r.boxes_xyxy_px) for r in records)
    assert unreadable == 1
    assert ap == pytest.approx(1 - len(records[0].boxes_xyxy_px) / total)
