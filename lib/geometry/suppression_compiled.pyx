# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The inner loop of `lib.geometry.suppression.nms` over typed memoryviews, without the GIL and NumPy's headers."""

from libc.stdint cimport int64_t, uint64_t

cdef extern from *:
    """
    #ifdef _MSC_VER
    #include <intrin.h>
    static int lowest_bit(unsigned long long word) { unsigned long at; _BitScanForward64(&at, word); return (int)at; }
    #else
    #define lowest_bit(word) __builtin_ctzll(word)
    #endif
    """
    int lowest_bit(unsigned long long word) nogil

ctypedef fused real:
    float
    double


cdef inline Py_ssize_t strip(real value, real low, real factor, Py_ssize_t strips) noexcept nogil:
    """The strip that a coordinate lies in; no larger coordinate lies in an earlier one."""
    cdef Py_ssize_t found = <Py_ssize_t>((value - low) * factor)
    return found if found < strips else strips - 1


def nms_in_strips(
    const real[:, ::1] boxes,
    const real[::1] areas,
    real iou_threshold,
    int64_t[::1] kept,
    uint64_t[:, :, ::1] strips,
    const real[::1] low,
    const real[::1] factor,
):
    """Fills `kept`, as long as it is, with the indices of the boxes that stay; returns how many. Best boxes first.

    A box is compared only with those kept boxes that share a column and a row of the image with it: `strips` [2, s, w],
    zeros, takes a bit a kept box for each of the s columns and rows, which begin at `low` (x, y) and of which there are
    `factor` in a unit. Coordinates must be finite, corners in order, and the threshold not negative.
    """
    if areas.shape[0] != boxes.shape[0] or (boxes.shape[0] and boxes.shape[1] != 4):
        raise ValueError("expected boxes [n, 4] and areas [n]")
    if strips.shape[0] != 2 or strips.shape[1] < 1 or 64 * strips.shape[2] < kept.shape[0]:
        raise ValueError("expected strips [2, s, w] with a bit for every box that may be kept")
    cdef Py_ssize_t box, k, other, place, count = 0, room = kept.shape[0], number = strips.shape[1]
    cdef Py_ssize_t left, right, top, bottom
    cdef uint64_t columns, rows
    cdef bint stays
    cdef real x1, y1, x2, y2, width, height, common
    cdef real zero = 0
    with nogil:
        for box in range(boxes.shape[0]):
            if count >= room:
                break
            x1, y1, x2, y2 = boxes[box, 0], boxes[box, 1], boxes[box, 2], boxes[box, 3]
            left, right = strip(x1, low[0], factor[0], number), strip(x2, low[0], factor[0], number)
            top, bottom = strip(y1, low[1], factor[1], number), strip(y2, low[1], factor[1], number)
            stays = True
            for k in range((count + 63) // 64):
                columns = rows = 0
                for place in range(left, right + 1):
                    columns |= strips[0, place, k]
                for place in range(top, bottom + 1):
                    rows |= strips[1, place, k]
                columns &= rows
                while columns and stays:
                    other = kept[64 * k + lowest_bit(columns)]
                    columns &= columns - 1
                    width = (x2 if x2 < boxes[other, 2] else boxes[other, 2]) - (
                        x1 if x1 > boxes[other, 0] else boxes[other, 0]
                    )
                    height = (y2 if y2 < boxes[other, 3] else boxes[other, 3]) - (
                        y1 if y1 > boxes[other, 1] else boxes[other, 1]
                    )
                    # The same operations in the same order as the NumPy path.
                    common = (width if width > zero else zero) * (height if height > zero else zero)
                    stays = common <= iou_threshold * ((areas[other] + areas[box]) - common)
                if not stays:
                    break
            if stays:
                for place in range(left, right + 1):
                    strips[0, place, count // 64] |= <uint64_t>1 << (count % 64)
                for place in range(top, bottom + 1):
                    strips[1, place, count // 64] |= <uint64_t>1 << (count % 64)
                kept[count] = box
                count += 1
    return count
