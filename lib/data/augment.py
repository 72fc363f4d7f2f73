"""Augmentation steps: pure functions of (sample, random generator); no argument is changed.

The recipe is PyramidBox's (arXiv 1803.07737, section 3.4), as EResFD uses it: data-anchor sampling or a random square
crop of 0.3 to 1 of the short side, a random interpolation, photometric distortion, a mirror. Where the input is not
square the crop has the input's aspect instead.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from lib.boxes import FloatArray, area

MEAN_RGB = (123, 117, 104)
MIN_FACE_AREA_PX = 6 * 6  # after the crop; smaller faces are no targets
_INTERPOLATIONS = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA, cv2.INTER_NEAREST, cv2.INTER_LANCZOS4)


@dataclass(frozen=True)
class Sample:
    """An image, uint8 RGB [H, W, 3], and its faces, float32 [n, 4] xyxy in its px."""

    image: NDArray[np.uint8]
    boxes_xyxy_px: FloatArray


@dataclass(frozen=True)
class Recipe:
    """What the training augmentation does.

    Attributes:
        height_px, width_px: size of what comes out.
        crop_min: smallest random crop, as a share of the largest that fits.
        anchor_sampling: probability of data-anchor sampling in place of a random crop, where there is a face.
        anchor_sizes: the anchors' sizes in px, ascending.

    """

    height_px: int
    width_px: int
    crop_min: float = 0.3
    anchor_sampling: float = 0.5
    anchor_sizes: tuple[float, ...] = (16, 32, 64, 128, 256, 512)


def training_sample(sample: Sample, recipe: Recipe, rng: np.random.Generator) -> Sample:
    """The whole recipe: any sample -> one of `recipe.height_px` x `recipe.width_px`."""
    interpolation = _INTERPOLATIONS[rng.integers(len(_INTERPOLATIONS))]
    if rng.random() < recipe.anchor_sampling and len(sample.boxes_xyxy_px):
        sample = anchor_sample(sample, recipe, interpolation, rng)
    else:
        sample = random_crop(sample, recipe.height_px / recipe.width_px, recipe.crop_min, rng)
        sample = resize(sample, recipe.height_px, recipe.width_px, interpolation)
    sample = photometric(sample, rng)  # after the resize: the same distortion on far fewer pixels
    return mirror(sample) if rng.random() < 0.5 else sample


def validation_sample(sample: Sample, height_px: int, width_px: int) -> Sample:
    """The whole image, scaled to fit, mean-coloured at the right and bottom; nothing random."""
    h, w = sample.image.shape[:2]
    scale = min(height_px / h, width_px / w)
    inner_h, inner_w = max(1, round(h * scale)), max(1, round(w * scale))
    inner = resize(sample, inner_h, inner_w, cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    image = np.empty((height_px, width_px, 3), np.uint8)
    image[:] = MEAN_RGB
    image[:inner_h, :inner_w] = inner.image
    return Sample(image, inner.boxes_xyxy_px)


def photometric(sample: Sample, rng: np.random.Generator) -> Sample:
    """Brightness +-0.125, contrast 0.5..1.5, saturation 0.5..1.5, hue +-18 degrees; each with probability 0.5."""
    image = sample.image
    for step in rng.permutation(4):
        if rng.random() < 0.5:
            image = _PHOTOMETRIC[step](image, rng)
    return Sample(image, sample.boxes_xyxy_px)


def _brightness(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    return _through_table(image, np.arange(256) + 255 * rng.uniform(-0.125, 0.125))


def _contrast(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    return _through_table(image, np.arange(256) * rng.uniform(0.5, 1.5))


def _saturation(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    return _in_hsv(image, 1, np.arange(256) * rng.uniform(0.5, 1.5))


def _hue(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    return _in_hsv(image, 0, (np.arange(256) + rng.uniform(-9, 9)) % 180)  # OpenCV's hue counts in 2 degrees


_PHOTOMETRIC = (_brightness, _contrast, _saturation, _hue)


def _through_table(plane: NDArray[np.uint8], table: FloatArray) -> NDArray[np.uint8]:
    return np.asarray(cv2.LUT(plane, np.clip(table, 0, 255).astype(np.uint8)), np.uint8)


def _in_hsv(image: NDArray[np.uint8], channel: int, table: FloatArray) -> NDArray[np.uint8]:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., channel] = _through_table(np.ascontiguousarray(hsv[..., channel]), table)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)


def random_crop(sample: Sample, aspect: float, min_scale: float, rng: np.random.Generator) -> Sample:
    """A crop of `aspect` = height / width, min_scale..1 of the largest that fits, anywhere."""
    h, w = sample.image.shape[:2]
    scale = rng.uniform(min_scale, 1)
    crop_h = max(1, int(scale * min(h, w * aspect)))
    crop_w = max(1, int(scale * min(w, h / aspect)))
    return crop(sample, int(rng.integers(0, w - crop_w + 1)), int(rng.integers(0, h - crop_h + 1)), crop_w, crop_h)


def anchor_sample(sample: Sample, recipe: Recipe, interpolation: int, rng: np.random.Generator) -> Sample:
    """Data-anchor sampling: a face is brought to the size of an anchor, and the input cut out around it.

    The anchor is drawn from the smallest up to the one above the face's own, the face's new size is the anchor's times
    2^U(-1, 1); so large faces become small ones, of which no data set has too many. Outside the image is mean colour.
    """
    face = sample.boxes_xyxy_px[rng.integers(len(sample.boxes_xyxy_px))]
    size = max(1.0, float(np.sqrt(area(face))))
    sizes = recipe.anchor_sizes
    own = int(np.abs(np.log(np.asarray(sizes) / size)).argmin())
    wanted = sizes[rng.integers(min(own + 1, len(sizes) - 1) + 1)] * 2 ** rng.uniform(-1, 1)
    scale = wanted / size

    # The window in the image's px: as large as the input at that scale, anywhere with the whole face in it if it fits.
    window = np.array([recipe.width_px, recipe.height_px]) / scale
    corner = rng.uniform(np.minimum(face[2:] - window, face[:2]), np.maximum(face[2:] - window, face[:2]))
    h, w = sample.image.shape[:2]
    x1, y1 = np.floor(np.clip(corner, 0, [w - 1, h - 1])).astype(int).tolist()
    x2, y2 = np.ceil(np.clip(corner + window, [x1 + 1, y1 + 1], [w, h])).astype(int).tolist()
    inside = crop(sample, x1, y1, x2 - x1, y2 - y1)
    scaled = resize(inside, max(1, round((y2 - y1) * scale)), max(1, round((x2 - x1) * scale)), interpolation)

    image = np.empty((recipe.height_px, recipe.width_px, 3), np.uint8)
    image[:] = MEAN_RGB
    left, top = np.round((np.array([x1, y1]) - corner) * scale).clip(0).astype(int).tolist()
    pasted = scaled.image[: recipe.height_px - top, : recipe.width_px - left]
    image[top : top + pasted.shape[0], left : left + pasted.shape[1]] = pasted
    placed = Sample(image, scaled.boxes_xyxy_px + np.array([left, top, left, top], np.float32))
    return crop(placed, 0, 0, recipe.width_px, recipe.height_px)


def crop(sample: Sample, x_px: int, y_px: int, width_px: int, height_px: int) -> Sample:
    """A window inside the image; faces stay if their centre is in it, and are cut to it."""
    image = sample.image[y_px : y_px + height_px, x_px : x_px + width_px]
    boxes = sample.boxes_xyxy_px - np.array([x_px, y_px, x_px, y_px], np.float32)
    limits = np.array([width_px, height_px], np.float32)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = np.all((centres >= 0) & (centres < limits), axis=1)
    return Sample(image, np.clip(boxes[inside], 0, np.tile(limits, 2)))


def resize(sample: Sample, height_px: int, width_px: int, interpolation: int) -> Sample:
    """Scales image and boxes; faces that end up with an area of 36 px or less are dropped."""
    h, w = sample.image.shape[:2]
    image = np.asarray(cv2.resize(sample.image, (width_px, height_px), interpolation=interpolation), np.uint8)
    scale = np.array([width_px / w, height_px / h] * 2, np.float32)
    boxes = sample.boxes_xyxy_px * scale
    return Sample(image, boxes[area(boxes) > MIN_FACE_AREA_PX])


def mirror(sample: Sample) -> Sample:
    """Left and right exchanged; its own inverse."""
    width = sample.image.shape[1]
    boxes = sample.boxes_xyxy_px[:, [2, 1, 0, 3]] * np.array([-1, 1, -1, 1], np.float32)
    return Sample(np.ascontiguousarray(sample.image[:, ::-1]), boxes + np.array([width, 0, width, 0], np.float32))
