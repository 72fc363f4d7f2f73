import json

import numpy as np
import pytest

from lib.arrays import FloatArray
from lib.evaluation.curve import area_under_envelope
from lib.evaluation.ground_truth import GroundTruth, read_annotated_truth, read_ground_truth
from lib.evaluation.matching import NUMPY, BoolArray, Kernels
from lib.evaluation.prediction_files import Predictions, read_predictions
from lib.evaluation.wider import as_json, evaluate_wider, rescaled, table
from tests.evaluation.test_matching import each_kernel
from tests.shared import shared
from tests.wider_files import Rows, predictions_of, truth_of

A, B, C = [0, 0, 19, 19], [100, 0, 39, 39], [200, 0, 79, 79]
NOWHERE = [500, 500, 20, 20]


def ap(truth: GroundTruth, predictions: Predictions, kernels: Kernels = NUMPY) -> float:
    score = evaluate_wider(truth, predictions, kernels).subsets["all"].ap
    assert score is not None
    return score


def shuffled(predictions: Predictions, seed: int) -> Predictions:
    """The same detections in another order within each image."""
    image = np.repeat(np.arange(len(predictions.starts) - 1), np.diff(predictions.starts))
    order = np.lexsort((np.random.default_rng(seed).random(len(image)), image))
    return Predictions(predictions.boxes_xyxy_px[order], predictions.scores[order], predictions.starts)


def by_the_letter(truth: GroundTruth, predictions: Predictions, counted: BoolArray) -> float:
    """The protocol step by step, one threshold after another, for detections sorted by score."""
    least, greatest = predictions.scores.min(), predictions.scores.max()
    made, found = np.zeros(1000), np.zeros(1000)
    for image in range(len(truth.names)):
        b, f = (slice(starts[image], starts[image + 1]) for starts in (predictions.starts, truth.starts))
        seen: set[int] = set()
        events = []
        for box, score in zip(predictions.boxes_xyxy_px[b], predictions.scores[b], strict=True):
            overlaps = [iou(box, face) for face in truth.faces_xyxy_px[f]]
            best = int(np.argmax(overlaps)) if overlaps else -1
            is_hit = bool(overlaps) and overlaps[best] >= 0.5
            if is_hit and not counted[f][best]:
                continue
            new = is_hit and best not in seen
            if is_hit:
                seen.add(best)
            events.append(((score - least) / (greatest - least), new))
        for k in range(1, 1001):
            made[k - 1] += sum(score >= 1 - k / 1000 for score, _ in events)
            found[k - 1] += sum(new for score, new in events if score >= 1 - k / 1000)
    return area_under_envelope(found / counted.sum(), found / np.maximum(made, 1))


def iou(a: FloatArray, b: FloatArray) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return float(width * height / (areas[0] + areas[1] - width * height))


@each_kernel
@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[*A, 0.9], [*B, 0.5], [*C, 0.1]], 1.0),
        ([[*A, 0.9], [*B, 0.1]], 2 / 3),
        ([[*A, 0.9], [*NOWHERE, 0.5], [*B, 0.1]], 1 / 3 + 1 / 3 * 2 / 3),
        ([[*A, 0.9], [*A, 0.5], [*B, 0.1]], 1 / 3 + 1 / 3 * 2 / 3),  # a second hit is a false positive
        ([[*NOWHERE, 0.9], [*A, 0.5], [*B, 0.4], [*C, 0.1]], 3 / 4),
        ([[*NOWHERE, 0.9]], 0.0),
        ([[*A, 0.5], [*NOWHERE, 0.5]], 1 / 3 * 1 / 2),  # equal scores: one threshold takes both
        ([[*NOWHERE, 0.5], [*A, 0.5]], 1 / 3 * 1 / 2),
        ([[*A, 7.0], [*B, -3.0], [*C, 1.5]], 1.0),  # scores of any scale
        ([], 0.0),
    ],
)
def test_by_hand(kernels: Kernels, rows: Rows, expected: float) -> None:
    assert ap(truth_of([[A, B, C]]), predictions_of([rows]), kernels) == pytest.approx(expected, abs=1e-12)


@each_kernel
def test_ignored_faces_are_neither_hit_nor_miss(kernels: Kernels) -> None:
    truth = truth_of([[A, B, C]], [[True, False, True]])
    rows = [[*B, 0.9], [*B, 0.8], [*A, 0.5], [*C, 0.1]]
    assert ap(truth, predictions_of([rows]), kernels) == 1.0


def test_a_detection_belongs_to_the_face_it_overlaps_most() -> None:
    near_a = [2, 0, 19, 19]  # IoU 0.82 with A
    truth = truth_of([[A, near_a]], [[True, False]])
    assert ap(truth, predictions_of([[[*near_a, 0.9]]])) == 0.0  # though A alone would be hit


def test_scores_are_rescaled_over_all_images() -> None:
    truth = truth_of([[A], [B]])
    # Within each image the hit would lead; over both the false one of the second image comes before the first's hit.
    predictions = predictions_of([[[*A, 0.3]], [[*B, 0.9], [*NOWHERE, 0.6]]])
    assert ap(truth, predictions) == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)


def test_scores_closer_than_a_threshold_count_together() -> None:
    rows = [[*A, 1.0], [*NOWHERE, 0.50049], [*B, 0.50041], [*C, 0.0]]
    # 0.50049 and 0.50041 both pass first at 0.500: two hits of three there.
    assert ap(truth_of([[A, B, C]]), predictions_of([rows])) == pytest.approx(1 / 3 + 2 / 3 * 3 / 4)


def test_false_positives_on_images_without_faces_count() -> None:
    truth = truth_of([[A], []])
    assert ap(truth, predictions_of([[[*A, 0.5]], [[*NOWHERE, 0.9]]])) == 0.5


def test_rescaling() -> None:
    assert rescaled(np.array([3.0, -1.0, 1.0])).tolist() == [1.0, 0.0, 0.5]
    assert rescaled(np.array([0.2, 0.2])).tolist() == [1.0, 1.0]
    assert rescaled(np.zeros(0)).size == 0


def test_heights_outside_a_range_are_ignored() -> None:
    truth = truth_of([[A, B, C, [300, 0, 10, 15.5], [400, 0, 10, 16]]])
    rows = [[*A, 0.9], [*B, 0.8], [*NOWHERE, 0.7], [300, 0, 10, 15.5, 0.6], [400, 0, 10, 16, 0.5]]
    by_height = evaluate_wider(truth, predictions_of([rows])).by_height
    assert {name: curve.faces for name, curve in by_height.items()} == {
        "under_16": 1,
        "16_to_32": 2,
        "32_to_64": 1,
        "64_and_over": 1,
    }
    assert [curve.ap for curve in by_height.values()] == pytest.approx([1 / 2, 1 / 2 + 1 / 2 * 2 / 3, 1.0, 0.0])


def test_without_faces_ap_is_not_defined() -> None:
    evaluation = evaluate_wider(truth_of([[]]), predictions_of([[[*A, 0.5]]]))
    assert evaluation.subsets["all"].ap is None
    assert "no face" in table(evaluation)
    assert json.loads(json.dumps(as_json(evaluation), allow_nan=False))["all"] is None


def test_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match="1 images with faces, 2 with detections"):
        evaluate_wider(truth_of([[A]]), predictions_of([[], []]))


def random_case(seed: int) -> tuple[GroundTruth, Predictions]:
    """A few images; each face found or not, boxes beside it, scores on a coarse grid, so that many are equal."""
    random = np.random.default_rng(seed)
    faces, counted, rows = [], [], []
    for _ in range(12):
        boxes = np.round(np.column_stack([random.uniform(0, 200, (8, 2)), random.uniform(5, 80, (8, 2))]), 1)
        moved = np.repeat(boxes, 3, axis=0) + random.normal(0, 4, (24, 4)).round(1)
        scores = random.integers(0, 400, (24, 1)) / 399
        detections = np.concatenate([moved, scores], axis=1)
        rows.append(detections[np.argsort(-detections[:, 4], kind="stable")])
        faces.append(boxes.tolist())
        counted.append((random.random(8) < 0.6).tolist())
    return truth_of(faces, counted), predictions_of([image.tolist() for image in rows])


@each_kernel
@pytest.mark.parametrize("seed", range(5))
def test_equal_to_the_protocol_by_the_letter(kernels: Kernels, seed: int) -> None:
    truth, predictions = random_case(seed)
    expected = by_the_letter(truth, predictions, truth.counted["all"])
    assert 0.1 < expected < 0.9
    assert ap(truth, predictions, kernels) == pytest.approx(expected, abs=1e-13)


@each_kernel
@pytest.mark.parametrize("seed", range(5))
def test_unsorted_equals_sorted(kernels: Kernels, seed: int) -> None:
    truth, predictions = random_case(seed)
    # Scores all different: of equal ones the order of the file decides which hit is the first.
    distinct = predictions.scores + np.linspace(0, 1e-9, len(predictions.scores))
    predictions = Predictions(predictions.boxes_xyxy_px, distinct, predictions.starts)
    assert ap(truth, shuffled(predictions, seed), kernels) == ap(truth, predictions, kernels)


@each_kernel
def test_the_order_of_equal_scores_does_not_matter_for_distinct_hits(kernels: Kernels) -> None:
    rows = [[*A, 0.5], [*NOWHERE, 0.5], [*B, 0.5], [*C, 0.2]]
    assert ap(truth_of([[A, B, C]]), predictions_of([rows]), kernels) == ap(
        truth_of([[A, B, C]]), predictions_of([rows[::-1]]), kernels
    )


# What follows needs the data beside the project.


@each_kernel
def test_ap_equals_the_reference(kernels: Kernels) -> None:
    expected = json.loads(shared("wider/predictions/expected.json").read_text())
    truth = read_ground_truth(shared("wider/ground_truth"))
    predictions, present = read_predictions(shared("wider/predictions/retinaface.zip"), truth.names)
    assert present.all()
    assert len(predictions.scores) == expected["detections"]
    for given in (predictions, shuffled(predictions, 0)):
        evaluation = evaluate_wider(truth, given, kernels)
        for subset, curve in evaluation.subsets.items():
            assert curve.ap == pytest.approx(expected[subset], abs=1e-9)


@each_kernel
def test_the_ground_truth_scores_one_and_nothing_zero(kernels: Kernels) -> None:
    truth = read_ground_truth(shared("wider/ground_truth"))
    for subset, counted in truth.counted.items():
        images = np.repeat(np.arange(len(truth.names)), np.diff(truth.starts))[counted]
        starts = np.searchsorted(images, np.arange(len(truth.names) + 1))
        perfect = Predictions(truth.faces_xyxy_px[counted], np.ones(len(images)), starts)
        best = evaluate_wider(truth, perfect, kernels).subsets[subset].ap
        nothing = Predictions(np.zeros((0, 4)), np.zeros(0), np.zeros_like(starts))
        assert evaluate_wider(truth, nothing, kernels).subsets[subset].ap == 0.0
        if subset != "hard":
            assert best == 1.0
        else:
            # Two of the annotated faces can be found by nobody: the second of two equal boxes, and one 2 px less than
            # 0 wide. As predictions both are false positives.
            assert best == pytest.approx((31956 / 31958) ** 2, abs=1e-12)


@each_kernel
def test_annotations_as_predictions_score_one(kernels: Kernels) -> None:
    truth = read_annotated_truth(shared("wider/wider_face_split/wider_face_val_bbx_gt.txt"))
    perfect = Predictions(truth.faces_xyxy_px, np.linspace(1, 0.1, len(truth.faces_xyxy_px)), truth.starts)
    assert ap(truth, perfect, kernels) == 1.0
