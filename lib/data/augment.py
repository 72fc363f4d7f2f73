"""Augmentation steps: pure functions of (sample, random generator); no argument is changed.

A recipe (`lib.data.recipes`) draws a window, which may reach beyond the image, cuts it out at the input's size, and
ends with the steps that follow.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from lib.arrays import FloatArray
from lib.geometry.boxes import area, iou_matrix

Image = NDArray[np.uint8]

MEAN_RGB = (123, 117, 104)
MIN_FACE_AREA_PX = 6 * 6  # in the input; smaller faces are no targets
INTERPOLATIONS = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA, cv2.INTER_NEAREST, cv2.INTER_LANCZOS4)
# SSD's constraints on a crop: the IoU that some face must have with it; 0: none, None: no crop at all.
_CROP_IOUS = (None, 0.1, 0.3, 0.5, 0.7, 0.9, 0.0)
_CROP_TRIES = 50
_MIRRORED = [1, 0, 2, 4, 3]  # where each landmark of a mirrored face comes from


def _no_boxes() -> FloatArray:
    return np.zeros((0, 4), np.float32)


@dataclass(frozen=True)
class Sample:
    """An image, uint8 RGB [H, W, 3], and boxes in its px, float32 [n, 4] xyxy.

    Attributes:
        boxes_xyxy_px: the faces.
        ignored_xyxy_px: what is neither face nor background.
        landmarks_px: float32 [n, 5, 2], those of the faces, see `lib.data.annotations.Record`; None: none are known.

    """

    image: Image
    boxes_xyxy_px: FloatArray
    ignored_xyxy_px: FloatArray = field(default_factory=_no_boxes)
    landmarks_px: FloatArray | None = None


def square_window(sample: Sample, aspect: float, min_scale: float, rng: np.random.Generator) -> FloatArray:
    """A window (x1, y1, x2, y2) in whole px: `min_scale`..1 of the largest with `aspect` = height / width, anywhere."""
    h, w = sample.image.shape[:2]
    scale = rng.uniform(min_scale, 1)
    height = max(1, int(scale * min(h, w * aspect)))
    width = max(1, int(scale * min(w, h / aspect)))
    x, y = int(rng.integers(0, w - width + 1)), int(rng.integers(0, h - height + 1))
    return np.array([x, y, x + width, y + height], np.float64)


def reaching_window(sample: Sample, aspect: float, shares: tuple[float, ...], rng: np.random.Generator) -> FloatArray:
    """A window of one of the `shares` of the largest with `aspect` = height / width that fits; a larger one holds it.

    Of 50 places the first with the centre of a face in it is taken, or just the first.
    """
    size = np.array(sample.image.shape[1::-1], np.float64)
    extent = shares[rng.integers(len(shares))] * min(size[1], size[0] * aspect) / np.array([aspect, 1.0])
    room = size - extent
    corners = rng.uniform(np.minimum(room, 0), np.maximum(room, 0), (_CROP_TRIES, 2))
    centres = (sample.boxes_xyxy_px[:, :2] + sample.boxes_xyxy_px[:, 2:]) / 2
    inside = (centres >= corners[:, None]) & (centres < (corners + extent)[:, None])
    corner = corners[np.any(np.all(inside, axis=2), axis=1).argmax()]
    return np.concatenate([corner, corner + extent])


def anchor_window(
    sample: Sample, height_px: int, width_px: int, anchor_sizes: tuple[float, ...], rng: np.random.Generator
) -> FloatArray:
    """Data-anchor sampling (PyramidBox, arXiv 1803.07737, section 3.4): a face becomes as large as an anchor.

    The anchor is drawn from the smallest up to the one above the face's own, the face's new size is the anchor's times
    2^U(-1, 1); so large faces become small ones, of which no data set has too many. The window is the input at that
    scale, anywhere with the whole face in it if it fits. The sample must have a face.

    Args:
        height_px, width_px: the input's size.
        anchor_sizes: in px, ascending.

    """
    face = sample.boxes_xyxy_px[rng.integers(len(sample.boxes_xyxy_px))].astype(np.float64)
    size = max(1.0, float(np.sqrt(area(face))))
    own = int(np.abs(np.log(np.asarray(anchor_sizes) / size)).argmin())
    wanted = anchor_sizes[rng.integers(min(own + 1, len(anchor_sizes) - 1) + 1)] * 2 ** rng.uniform(-1, 1)
    window = np.array([width_px, height_px]) * size / wanted
    corner = rng.uniform(np.minimum(face[2:] - window, face[:2]), np.maximum(face[2:] - window, face[:2]))
    return np.concatenate([corner, corner + window])


def expanded_window(sample: Sample, max_ratio: float, rng: np.random.Generator) -> FloatArray:
    """SSD's zooming out (arXiv 1512.02325, section 3.6): 1 to `max_ratio` times the image's sides, around the image."""
    size = np.array(sample.image.shape[1::-1], np.float64)
    ratio = rng.uniform(1, max_ratio)
    corner = -rng.uniform(0, (ratio - 1) * size)
    return np.concatenate([corner, corner + ratio * size])


def overlap_window(sample: Sample, frame: FloatArray, min_scale: float, rng: np.random.Generator) -> FloatArray:
    """SSD's random crop of `frame` (arXiv 1512.02325, section 2.2).

    In random order the constraints are tried: the whole frame, some face with an IoU of at least 0.1, 0.3, 0.5, 0.7 or
    0.9 with the crop, no constraint. A crop has `min_scale`..1 of the frame's width and of its height, an aspect of
    0.5 to 2, some of the image in it, and the centre of a face if the sample has one.
    """
    faces = sample.boxes_xyxy_px.astype(np.float64)
    centres = (faces[:, :2] + faces[:, 2:]) / 2
    extent = frame[2:] - frame[:2]
    for place in rng.permutation(len(_CROP_IOUS)):
        least = _CROP_IOUS[place]
        if least is None:
            return frame
        sizes = rng.uniform(min_scale, 1, (_CROP_TRIES, 2)) * extent
        corners = frame[:2] + rng.uniform(0, 1, (_CROP_TRIES, 2)) * (extent - sizes)
        windows = np.concatenate([corners, corners + sizes], axis=1)
        shown = np.minimum(windows[:, 2:], sample.image.shape[1::-1]) - np.maximum(windows[:, :2], 0)
        fits = (sizes.max(axis=1) <= 2 * sizes.min(axis=1)) & (shown >= 1).all(axis=1)
        if len(faces):
            inside = (centres >= windows[:, None, :2]) & (centres < windows[:, None, 2:])
            fits &= np.any(np.all(inside, axis=2), axis=1) & (iou_matrix(windows, faces).max(axis=1) >= least)
        if fits.any():
            return windows[fits.argmax()]
    return frame


def cut_out(
    sample: Sample,
    window_xyxy_px: FloatArray,
    height_px: int,
    width_px: int,
    interpolation: int,
    change: Callable[[Image], Image] = lambda image: image,
) -> Sample:
    """The window scaled to `height_px` x `width_px`, mean-coloured outside the image.

    Faces stay if their centre is in the window and in the image, and are cut to both; their landmarks are not.

    Args:
        window_xyxy_px: it must overlap the image, and may reach beyond it.
        interpolation: OpenCV's.
        change: of the colours, pixel by pixel; done where the image is smaller, before or after scaling. Not applied
            to what is outside the image.

    """
    image_size, out_size = np.array(sample.image.shape[1::-1]), np.array([width_px, height_px])
    corner, end = window_xyxy_px[:2], window_xyxy_px[2:]
    scale = out_size / (end - corner)
    first = np.floor(np.clip(corner, 0, image_size - 1)).astype(np.int64)
    last = np.ceil(np.clip(end, first + 1, image_size)).astype(np.int64)
    scaled_size = np.maximum(1, np.round((last - first) * scale)).astype(np.int64)
    place = np.clip(np.round((first - corner) * scale), 0, out_size - 1).astype(np.int64)

    part = sample.image[first[1] : last[1], first[0] : last[0]]
    before = scaled_size.prod() > (last - first).prod()
    part = change(part) if before else part
    part = np.asarray(cv2.resize(part, scaled_size.tolist(), interpolation=interpolation), np.uint8)
    room = out_size - place
    part = part[: room[1], : room[0]]
    part = part if before else change(part)

    if part.shape[:2] == (height_px, width_px):
        image = part
    else:
        image = np.empty((height_px, width_px, 3), np.uint8)
        image[:] = MEAN_RGB
        image[place[1] : place[1] + part.shape[0], place[0] : place[0] + part.shape[1]] = part
    low, high = np.tile(place, 2), np.tile(np.minimum(place + scaled_size, out_size), 2)
    factor = scaled_size / (last - first)

    def moved(points: FloatArray) -> FloatArray:
        pairs = points.reshape(-1, 2)
        return ((pairs - first) * factor + place).astype(np.float32).reshape(points.shape)

    boxes, ignored = moved(sample.boxes_xyxy_px), np.clip(moved(sample.ignored_xyxy_px), low, high)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = np.all((centres >= low[:2]) & (centres < high[:2]), axis=1)
    landmarks = None if sample.landmarks_px is None else moved(sample.landmarks_px[inside])
    kept = np.clip(boxes[inside], low, high).astype(np.float32)
    return Sample(image, kept, ignored[area(ignored) > 0], landmarks)


def mirror(sample: Sample) -> Sample:
    """Left and right exchanged, of eyes and corners of the mouth too; its own inverse."""
    width = sample.image.shape[1]

    def mirrored(boxes: FloatArray) -> FloatArray:
        return boxes[:, [2, 1, 0, 3]] * np.array([-1, 1, -1, 1], np.float32) + np.array([width, 0] * 2, np.float32)

    image = np.asarray(cv2.flip(sample.image, 1), np.uint8)
    landmarks = sample.landmarks_px
    if landmarks is not None:
        landmarks = landmarks[:, _MIRRORED] * np.array([-1, 1], np.float32) + np.array([width, 0], np.float32)
    return Sample(image, mirrored(sample.boxes_xyxy_px), mirrored(sample.ignored_xyxy_px), landmarks)


def keep_targets(sample: Sample, cover_px: float) -> Sample:
    """The last step: only faces that can be learned stay; what must not be learned as background is painted over.

    Faces with an area of 36 px or less go. Those of them, and others, whose size (root of the area) is below `cover_px`
    are painted over with the mean colour, and so is what is ignored; pixels of the faces that stay are spared.
    """
    areas = area(sample.boxes_xyxy_px)
    small = areas < cover_px**2
    stay = (areas > MIN_FACE_AREA_PX) & ~small
    kept = sample.boxes_xyxy_px[stay]
    landmarks = None if sample.landmarks_px is None else sample.landmarks_px[stay]
    covered = np.concatenate([sample.boxes_xyxy_px[small], sample.ignored_xyxy_px])
    if not len(covered):
        return Sample(sample.image, kept, landmarks_px=landmarks)
    image = sample.image.copy()
    for x1, y1, x2, y2 in _whole_px(covered):
        image[y1:y2, x1:x2] = MEAN_RGB
    hit = iou_matrix(kept, covered).any(axis=1)
    for x1, y1, x2, y2 in _whole_px(kept[hit]):
        image[y1:y2, x1:x2] = sample.image[y1:y2, x1:x2]
    return Sample(image, kept, landmarks_px=landmarks)


def _whole_px(boxes_xyxy_px: FloatArray) -> list[list[int]]:
    """The pixels that boxes touch; a box may begin left of or above the image."""
    low, high = np.floor(boxes_xyxy_px[:, :2]), np.ceil(boxes_xyxy_px[:, 2:])
    return np.maximum(np.concatenate([low, high], axis=1), 0).astype(np.int64).tolist()
