# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The inner loop of `lib.geometry.suppression.nms` over typed memoryviews, without the GIL and NumPy's headers."""

from libc.stdint cimport int64_t

ctypedef fused real:
    float
    double


def nms(const real[:, ::1] boxes, const real[::1] areas, real iou_threshold, int64_t[::1] kept):
    """Fills `kept`, as long as it is, with the indices of the boxes that stay; returns how many. Best boxes first."""
    if areas.shape[0] != boxes.shape[0] or (boxes.shape[0] and boxes.shape[1] != 4):
        raise ValueError("expected boxes [n, 4] and areas [n]")
    cdef Py_ssize_t box, k, other, count = 0, room = kept.shape[0]
    cdef real x1, y1, x2, y2, width, height, common
    cdef real zero = 0
    with nogil:
        for box in range(boxes.shape[0]):
            if count >= room:
                break
            x1, y1, x2, y2 = boxes[box, 0], boxes[box, 1], boxes[box, 2], boxes[box, 3]
            for k in range(count):
                other = kept[k]
                width = (x2 if x2 < boxes[other, 2] else boxes[other, 2]) - (
                    x1 if x1 > boxes[other, 0] else boxes[other, 0]
                )
                height = (y2 if y2 < boxes[other, 3] else boxes[other, 3]) - (
                    y1 if y1 > boxes[other, 1] else boxes[other, 1]
                )
                # The same operations in the same order as the NumPy path.
                common = (width if width > zero else zero) * (height if height > zero else zero)
                if not common <= iou_threshold * ((areas[other] + areas[box]) - common):
                    break
            else:
                kept[count] = box
                count += 1
    return count
