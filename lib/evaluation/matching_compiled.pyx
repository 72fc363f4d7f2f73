# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The inner loops of lib/evaluation/matching.py over typed memoryviews, without the GIL and without NumPy's headers."""

from libc.stdint cimport int64_t, uint8_t


def match(
    const double[:, ::1] boxes,
    const int64_t[::1] box_starts,
    const double[:, ::1] faces,
    const int64_t[::1] face_starts,
    double min_iou,
    uint8_t[::1] taken,
    int64_t[::1] face,
    uint8_t[::1] is_first,
):
    """Fills `face` and `is_first`; `taken`, [m], comes in as zeros. See `lib.evaluation.matching.match_numpy`."""
    if box_starts.shape[0] != face_starts.shape[0]:
        raise ValueError("boxes and faces of a different number of images")
    if box_starts[box_starts.shape[0] - 1] > min(boxes.shape[0], face.shape[0], is_first.shape[0]):
        raise ValueError("box_starts goes beyond the boxes")
    if face_starts[face_starts.shape[0] - 1] > min(faces.shape[0], taken.shape[0]):
        raise ValueError("face_starts goes beyond the faces")
    cdef Py_ssize_t image, b, f, best
    cdef double x1, y1, x2, y2, area, width, height, common, overlap, most
    with nogil:
        for image in range(box_starts.shape[0] - 1):
            for b in range(box_starts[image], box_starts[image + 1]):
                x1, y1, x2, y2 = boxes[b, 0], boxes[b, 1], boxes[b, 2], boxes[b, 3]
                area = (x2 - x1 + 1) * (y2 - y1 + 1)
                best, most = -1, 0.0
                for f in range(face_starts[image], face_starts[image + 1]):
                    width = (x2 if x2 < faces[f, 2] else faces[f, 2]) - (x1 if x1 > faces[f, 0] else faces[f, 0]) + 1
                    if width <= 0:
                        continue
                    height = (y2 if y2 < faces[f, 3] else faces[f, 3]) - (y1 if y1 > faces[f, 1] else faces[f, 1]) + 1
                    if height <= 0:
                        continue
                    common = width * height
                    overlap = common / (
                        area + (faces[f, 2] - faces[f, 0] + 1) * (faces[f, 3] - faces[f, 1] + 1) - common
                    )
                    if overlap > most:
                        best, most = f, overlap
                if most < min_iou:
                    best = -1
                face[b] = best
                is_first[b] = best >= 0 and not taken[best]
                if best >= 0:
                    taken[best] = 1


def count(
    const int64_t[::1] levels,
    const int64_t[::1] face,
    const uint8_t[::1] is_first,
    const uint8_t[::1] counted,
    int64_t[::1] made,
    int64_t[::1] found,
):
    """Fills `made` and `found`, which come in as zeros. See `lib.evaluation.matching.count_numpy`."""
    cdef Py_ssize_t b, level
    with nogil:
        for b in range(levels.shape[0]):
            if face[b] < 0:
                made[levels[b]] += 1
            elif counted[face[b]]:
                made[levels[b]] += 1
                found[levels[b]] += is_first[b]
        for level in range(1, made.shape[0]):
            made[level] += made[level - 1]
            found[level] += found[level - 1]
