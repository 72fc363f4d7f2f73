from dataclasses import replace

import cv2
import numpy as np
import pytest

from lib.arrays import FloatArray
from lib.data.augment import (
    MEAN_RGB,
    Image,
    Sample,
    anchor_window,
    cut_out,
    expanded_window,
    keep_targets,
    mirror,
    overlap_window,
    square_window,
)
from lib.geometry.boxes import area, iou_matrix

MARK = (250, 5, 5)
NONE = np.zeros((0, 4), np.float32)
# x, y of left eye, right eye, nose, left and right corner of the mouth; of the second face none are known.
POINTS = np.array([[[15, 28], [25, 29], [20, 35], [16, 44], [24, 43]], [[np.nan, np.nan]] * 5], np.float32)


def _sample(height: int = 80, width: int = 120) -> Sample:
    """A dark image with red rectangles where the faces are."""
    image = np.full((height, width, 3), 20, np.uint8)
    boxes = np.array([[10, 20, 30, 50], [70, 10, 110, 60]], np.float32)
    for x1, y1, x2, y2 in boxes.astype(int).tolist():
        image[y1:y2, x1:x2] = MARK
    return Sample(image, boxes, boxes[:1])


def _with_landmarks() -> Sample:
    return replace(_sample(), landmarks_px=POINTS)


def _landmarks(sample: Sample) -> FloatArray:
    assert sample.landmarks_px is not None
    return sample.landmarks_px


def _marked(image: Image) -> list[list[int]]:
    """Boxes of the red regions, found in the pixels."""
    red = ((image[..., 0] > 180) & (image[..., 1] < 90)).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(red)
    return sorted([x, y, x + w, y + h] for x, y, w, h, _ in stats[1:].tolist())


def test_mirror_is_its_own_inverse_and_moves_boxes_with_pixels() -> None:
    sample = _sample()
    mirrored = mirror(sample)
    assert _marked(mirrored.image) == sorted(mirrored.boxes_xyxy_px.astype(int).tolist())
    twice = mirror(mirrored)
    np.testing.assert_array_equal(twice.image, sample.image)
    np.testing.assert_array_equal(twice.boxes_xyxy_px, sample.boxes_xyxy_px)
    np.testing.assert_array_equal(twice.ignored_xyxy_px, sample.ignored_xyxy_px)


def test_a_mirrored_faces_left_eye_is_its_right_one() -> None:
    mirrored = mirror(_with_landmarks())
    expected = [[120 - 25, 29], [120 - 15, 28], [120 - 20, 35], [120 - 24, 43], [120 - 16, 44]]
    np.testing.assert_array_equal(_landmarks(mirrored)[0], expected)
    assert np.isnan(_landmarks(mirrored)[1]).all()
    assert mirror(_sample()).landmarks_px is None
    np.testing.assert_array_equal(_landmarks(mirror(mirrored)), POINTS)


def test_the_whole_window_is_the_image() -> None:
    sample = _with_landmarks()
    same = cut_out(sample, np.array([0, 0, 120, 80]), 80, 120, cv2.INTER_LINEAR)
    np.testing.assert_array_equal(same.image, sample.image)
    np.testing.assert_array_equal(same.boxes_xyxy_px, sample.boxes_xyxy_px)
    np.testing.assert_array_equal(same.ignored_xyxy_px, sample.ignored_xyxy_px)
    np.testing.assert_array_equal(_landmarks(same), POINTS)


def test_landmarks_move_with_their_faces_and_are_not_cut() -> None:
    cut = cut_out(_with_landmarks(), np.array([19, 10, 69, 60]), 100, 150, cv2.INTER_NEAREST)
    np.testing.assert_array_equal(cut.boxes_xyxy_px, [[0, 20, 33, 80]])
    np.testing.assert_array_equal(_landmarks(cut), (POINTS[:1] - np.array([19, 10])) * [3, 2])
    assert _landmarks(cut)[0, 0, 0] < 0
    beyond = cut_out(_with_landmarks(), np.array([-20, -30, 140, 110]), 140, 160, cv2.INTER_NEAREST)
    np.testing.assert_array_equal(_landmarks(beyond), POINTS + np.array([20, 30]))


def test_landmarks_stay_with_the_faces_that_stay() -> None:
    for cover_px, kept in ((0, [0, 1]), (30, [1])):
        result = keep_targets(_with_landmarks(), cover_px)
        np.testing.assert_array_equal(result.boxes_xyxy_px, _sample().boxes_xyxy_px[kept])
        np.testing.assert_array_equal(_landmarks(result), POINTS[kept])


def test_faces_stay_if_their_centre_is_inside_and_are_cut() -> None:
    cut = cut_out(_sample(), np.array([15, 10, 75, 70]), 60, 60, cv2.INTER_NEAREST)
    np.testing.assert_array_equal(cut.boxes_xyxy_px, [[0, 10, 15, 40]])
    np.testing.assert_array_equal(cut.ignored_xyxy_px, [[0, 10, 15, 40]])
    past_centre = cut_out(_sample(), np.array([25, 10, 55, 40]), 60, 60, cv2.INTER_NEAREST)
    assert len(past_centre.boxes_xyxy_px) == 0
    np.testing.assert_array_equal(past_centre.ignored_xyxy_px, [[0, 20, 10, 60]])  # what is ignored stays in sight
    assert len(cut_out(_sample(), np.array([0, 0, 5, 5]), 60, 60, cv2.INTER_NEAREST).ignored_xyxy_px) == 0


@pytest.mark.parametrize(
    "window", [(-40, -20, 200, 140), (5.3, -3.7, 125.3, 116.3), (-300, -300, 180, 180), (60.5, 5.5, 118.2, 66.7)]
)
def test_boxes_move_with_pixels_also_beyond_the_image(window: tuple[float, ...]) -> None:
    cut = cut_out(_sample(), np.array(window), 240, 240, cv2.INTER_NEAREST)
    assert cut.image.shape == (240, 240, 3)
    assert len(cut.boxes_xyxy_px) >= 1
    seen = np.array([mark for mark in _marked(cut.image) if min(mark[2] - mark[0], mark[3] - mark[1]) > 3])
    np.testing.assert_allclose(seen, sorted(cut.boxes_xyxy_px.tolist()), atol=1)


def test_outside_is_mean_coloured_and_not_changed() -> None:
    white = Sample(np.full((50, 50, 3), 255, np.uint8), NONE)
    cut = cut_out(white, np.array([-50, 0, 50, 100]), 60, 60, cv2.INTER_LINEAR, lambda image: image // 5)
    assert (cut.image[:30, 30:] == 51).all()
    assert (cut.image[:, :30] == MEAN_RGB).all()
    assert (cut.image[30:] == MEAN_RGB).all()


@pytest.mark.parametrize("side", [20, 300])
def test_colours_change_where_the_image_is_smaller(side: int) -> None:
    areas = []

    def change(image: Image) -> Image:
        areas.append(image.shape[0] * image.shape[1])
        return image

    cut_out(_sample(), np.array([0, 0, 80, 80]), side, side, cv2.INTER_LINEAR, change)
    assert areas == [min(side, 80) ** 2]


@pytest.mark.parametrize("aspect", [1.0, 0.5, 2.0])
def test_square_windows_have_the_aspect_and_stay_inside(rng: np.random.Generator, aspect: float) -> None:
    windows = np.array([square_window(_sample(), aspect, 0.3, rng) for _ in range(300)])
    width, height = (windows[:, 2:] - windows[:, :2]).T
    assert (windows == np.round(windows)).all()
    assert (np.abs(height - aspect * width) <= 1 + aspect).all()
    assert (windows[:, :2] >= 0).all()
    assert (windows[:, 2:] <= [120, 80]).all()
    largest = min(80, 120 * aspect)
    assert 0.28 * largest < height.min() < 0.4 * largest
    assert height.max() > 0.95 * largest


def _one_face(box: list[float], size: int = 400) -> Sample:
    return Sample(np.zeros((size, size, 3), np.uint8), np.array([box], np.float32))


def test_anchor_windows_bring_a_face_to_an_anchors_size(rng: np.random.Generator) -> None:
    sample = _one_face([100, 100, 130, 140])  # 34.6 px: anchors 16, 32 and the one above, 64
    sizes = []
    for _ in range(2000):
        window = anchor_window(sample, 200, 160, (16, 32, 64, 128), rng)
        scale = 160 / (window[2] - window[0])
        np.testing.assert_allclose(scale, 200 / (window[3] - window[1]))
        sizes.append(scale * np.sqrt(30 * 40))
    octaves = np.log2(np.array(sizes) / 16)
    assert -1 <= octaves.min() < -0.95
    assert 2.95 < octaves.max() <= 3
    # A third each, spread over two octaves: twice as many where two anchors' ranges meet.
    counts = np.histogram(octaves, [-1, 0, 1, 2, 3])[0] / len(octaves)
    np.testing.assert_allclose(counts, [1 / 6, 1 / 3, 1 / 3, 1 / 6], atol=0.04)


def test_anchor_windows_hold_the_whole_face_if_it_fits(rng: np.random.Generator) -> None:
    sample = _one_face([300, 300, 340, 340])
    for _ in range(200):
        window = anchor_window(sample, 128, 128, (16, 32), rng)
        assert (window[:2] <= 300).all()
        assert (window[2:] >= 340).all()
    for _ in range(50):  # a face larger than the window fills it
        window = anchor_window(_one_face([10, 10, 390, 390]), 64, 64, (512,), rng)
        assert (window[:2] >= 10).all() or (window[:2] <= 10).all()
        assert len(cut_out(_one_face([10, 10, 390, 390]), window, 64, 64, cv2.INTER_LINEAR).image) == 64


def test_expanded_windows_hold_the_image(rng: np.random.Generator) -> None:
    windows = np.array([expanded_window(_sample(), 4, rng) for _ in range(300)])
    assert (windows[:, :2] <= 0).all()
    assert (windows[:, 2:] >= [120, 80]).all()
    ratios = (windows[:, 2:] - windows[:, :2]) / [120, 80]
    np.testing.assert_allclose(ratios[:, 0], ratios[:, 1])
    assert 1 <= ratios.min() < 1.1
    assert 3.8 < ratios.max() <= 4
    np.testing.assert_array_equal(expanded_window(_sample(), 1, rng), [0, 0, 120, 80])


def test_overlap_windows_keep_to_their_constraints(rng: np.random.Generator) -> None:
    sample = _one_face([50, 60, 290, 330])
    frame = np.array([0, 0, 400, 400], np.float64)
    windows = np.array([overlap_window(sample, frame, 0.3, rng) for _ in range(600)])
    whole = (windows == frame).all(axis=1)
    assert 0.08 < whole.mean() < 0.25
    size = windows[:, 2:] - windows[:, :2]
    assert (size >= 0.3 * 400).all()
    assert (size.max(axis=1) <= 2 * size.min(axis=1)).all()
    assert (windows[:, :2] >= 0).all()
    assert (windows[:, 2:] <= 400).all()
    assert ((windows[:, :2] <= [170, 195]) & (windows[:, 2:] > [170, 195])).all()  # the face's centre
    overlaps = iou_matrix(windows[~whole], sample.boxes_xyxy_px.astype(np.float64))[:, 0]
    assert (overlaps >= 0.7).mean() > 0.2  # far more than crops without constraint have
    assert overlaps.min() < 0.3


def test_overlap_windows_without_faces_or_with_tiny_ones(rng: np.random.Generator) -> None:
    for boxes in (NONE, np.array([[5, 5, 8, 9]], np.float32)):
        sample = Sample(np.zeros((100, 80, 3), np.uint8), boxes)
        frame = np.array([-200, -100, 120, 300], np.float64)
        for _ in range(100):
            window = overlap_window(sample, frame, 0.3, rng)
            shown = np.minimum(window[2:], [80, 100]) - np.maximum(window[:2], 0)
            assert (shown >= 1).all()
            assert len(cut_out(sample, window, 64, 64, cv2.INTER_AREA).boxes_xyxy_px) == len(boxes)


def _boxes(*rows: list[float]) -> FloatArray:
    return np.array(rows, np.float32).reshape(-1, 4)


def test_tiny_faces_are_no_targets_but_stay_in_the_picture() -> None:
    image = np.full((64, 64, 3), 200, np.uint8)
    kept = keep_targets(Sample(image, _boxes([0, 0, 6, 6], [10, 10, 17, 17])), 0)
    np.testing.assert_array_equal(kept.boxes_xyxy_px, [[10, 10, 17, 17]])
    assert kept.image is image


def test_small_faces_and_ignored_regions_are_painted_over_but_not_faces() -> None:
    image = np.full((64, 64, 3), 200, np.uint8)
    faces = _boxes([10, 10, 30, 30], [25, 25, 34, 34], [50, 50, 70, 59])
    covered = keep_targets(Sample(image, faces, _boxes([-3, 40, 20.5, 50])), 14)
    np.testing.assert_array_equal(covered.boxes_xyxy_px, faces[:1])
    mean = (covered.image == MEAN_RGB).all(axis=2)
    wanted = np.zeros((64, 64), np.bool_)
    wanted[25:34, 25:34] = wanted[50:59, 50:70] = wanted[40:50, :21] = True
    wanted[10:30, 10:30] = False
    np.testing.assert_array_equal(mean, wanted)
    assert (covered.image[~wanted] == 200).all()
    assert (image == 200).all()
    assert len(covered.ignored_xyxy_px) == 0
    assert area(faces[1]) < 14**2


@pytest.mark.parametrize("size", [(16, 16), (1, 500), (500, 1)])
def test_odd_images_work(rng: np.random.Generator, size: tuple[int, int]) -> None:
    sample = Sample(np.zeros((*size, 3), np.uint8), NONE)
    frame = expanded_window(sample, 4, rng)
    for window in (square_window(sample, 1, 0.3, rng), frame, overlap_window(sample, frame, 0.3, rng)):
        assert cut_out(sample, window, 32, 48, cv2.INTER_CUBIC).image.shape == (32, 48, 3)
