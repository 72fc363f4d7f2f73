import numpy as np
import pytest

from lib.arrays import FloatArray, IntArray
from lib.evaluation.ground_truth import starts_of
from lib.evaluation.matching import COMPILED, NUMPY, Kernels

NOT_BUILT = "the extension is not built: cd tools/ap_eval && python setup.py build_ext --inplace"
needs_compiled = pytest.mark.skipif(COMPILED is None, reason=NOT_BUILT)
each_kernel = pytest.mark.parametrize(
    "kernels", [NUMPY, pytest.param(COMPILED, marks=needs_compiled)], ids=["NumPy", "Cython"]
)


def one_image(boxes: list[list[float]], faces: list[list[float]]) -> tuple[FloatArray, IntArray, FloatArray, IntArray]:
    return (
        np.array(boxes, np.float64).reshape(-1, 4),
        starts_of(np.array([len(boxes)])),
        np.array(faces, np.float64).reshape(-1, 4),
        starts_of(np.array([len(faces)])),
    )


@each_kernel
@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([0, 0, 9, 9], 0),
        ([0, 0, 9, 4], 0),  # with +1: 10 x 5 of 10 x 10 pixels, an IoU of exactly one half
        ([0, 0, 9, 3.9], -1),
        ([100, 100, 109, 109], -1),
        ([19, 0, 29, 9], 1),
    ],
)
def test_a_box_has_its_face_from_half_on(kernels: Kernels, box: list[float], expected: int) -> None:
    face, is_first = kernels.match(*one_image([box], [[0, 0, 9, 9], [20, 0, 29, 9]]), 0.5)
    assert face.tolist() == [expected]
    assert is_first.tolist() == [expected >= 0]


@each_kernel
def test_only_the_first_box_of_a_face_is_first(kernels: Kernels) -> None:
    boxes: list[list[float]] = [[0, 0, 9, 9], [50, 50, 59, 59], [0, 0, 9, 8], [20, 0, 29, 9]]
    face, is_first = kernels.match(*one_image(boxes, [[0, 0, 9, 9], [20, 0, 29, 9]]), 0.5)
    assert face.tolist() == [0, -1, 0, 1]
    assert is_first.tolist() == [True, False, False, True]


@each_kernel
def test_of_equal_overlaps_the_first_face_is_taken(kernels: Kernels) -> None:
    face, _ = kernels.match(*one_image([[0, 0, 9, 9]], [[0, 0, 9, 9], [0, 0, 9, 9]]), 0.5)
    assert face.tolist() == [0]


@each_kernel
def test_a_face_of_negative_width_is_never_found(kernels: Kernels) -> None:
    face, _ = kernels.match(*one_image([[10, 0, 8, 9], [0, 0, 20, 9]], [[10, 0, 8, 9]]), 0.5)
    assert face.tolist() == [-1, -1]


@each_kernel
def test_boxes_do_not_meet_faces_of_other_images(kernels: Kernels) -> None:
    box = np.array([[0.0, 0, 9, 9]])
    face, _ = kernels.match(box, np.array([0, 1, 1]), box, np.array([0, 0, 1]), 0.5)
    assert face.tolist() == [-1]


@each_kernel
def test_counts_drop_boxes_of_ignored_faces(kernels: Kernels) -> None:
    levels = np.array([0, 1, 1, 3, 3])
    face = np.array([0, 1, -1, 0, 2])
    is_first = np.array([True, True, False, False, True])
    made, found = kernels.count(levels, face, is_first, np.array([True, False, True]), 4)
    assert made.tolist() == [1, 2, 2, 4]
    assert found.tolist() == [1, 1, 1, 2]


@needs_compiled
@pytest.mark.parametrize("seed", range(20))
def test_cython_equals_numpy(seed: int) -> None:
    assert COMPILED is not None
    random = np.random.default_rng(seed)
    images = int(random.integers(1, 12))

    def boxes(most: int) -> tuple[FloatArray, IntArray]:
        starts = starts_of(random.integers(0, most, images))
        # A tenth of a pixel on a small canvas: many overlaps, equal ones among them, and some sizes below 0.
        corners = np.round(random.uniform(0, 40, (starts[-1], 2)), 1)
        return np.concatenate([corners, corners + np.round(random.uniform(-2, 25, (starts[-1], 2)), 1)], axis=1), starts

    detections, box_starts = boxes(400)
    faces, face_starts = boxes(300)
    slow = NUMPY.match(detections, box_starts, faces, face_starts, 0.5)
    fast = COMPILED.match(detections, box_starts, faces, face_starts, 0.5)
    for expected, got in zip(slow, fast, strict=True):
        np.testing.assert_array_equal(got, expected)

    counted = random.random(len(faces)) < 0.5
    levels = random.integers(0, 50, len(detections))
    for expected, got in zip(
        NUMPY.count(levels, *slow, counted, 50), COMPILED.count(levels, *slow, counted, 50), strict=True
    ):
        np.testing.assert_array_equal(got, expected)


@needs_compiled
def test_cython_refuses_starts_beyond_the_arrays() -> None:
    assert COMPILED is not None
    boxes = np.zeros((1, 4))
    with pytest.raises(ValueError, match="box_starts"):
        COMPILED.match(boxes, np.array([0, 2]), boxes, np.array([0, 1]), 0.5)
    with pytest.raises(ValueError, match="face_starts"):
        COMPILED.match(boxes, np.array([0, 1]), boxes, np.array([0, 2]), 0.5)
