"""What happens to an image before training and before validation: the augmentation recipes.

`lib.data.augment.keep_targets` comes after either of them.

`eresfd` (EResFD and S3FD): data-anchor sampling or a random square crop of 0.3 to 1 of the short side. `dsfd` (DSFD,
arXiv 1810.10220, section 3.4): data-anchor sampling, or SSD's zooming out and random crop. Both: a random
interpolation, photometric distortion, a mirror. `yunet` (YuNet, Machine Intelligence Research 2023): a square crop of
half to one and a half times the short side, around a face, and a mirror; colours stay. Where the input is not square,
square crops have the input's aspect; SSD's crop is stretched to the input, as published.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import cv2
import numpy as np

from lib.data.augment import (
    INTERPOLATIONS,
    MEAN_RGB,
    Sample,
    anchor_window,
    cut_out,
    expanded_window,
    mirror,
    overlap_window,
    reaching_window,
    square_window,
)
from lib.data.photometric import distort, draw_distortion

EXPAND_RATIO = 4.0  # SSD's zooming out gives up to 16 times the area
EXPAND_PROBABILITY = 0.5
REACHES = (0.5, 0.7, 0.9, 1.1, 1.3, 1.5)  # YuNet's crops, of the short side
RecipeName = Literal["eresfd", "dsfd", "yunet"]


@dataclass(frozen=True)
class Recipe:
    """What the training augmentation does.

    Attributes:
        height_px, width_px: size of what comes out.
        crop_min: smallest random crop, as a share of the largest that fits; YuNet's are fixed.
        anchor_sampling: probability of data-anchor sampling in place of a crop, where there is a face (published:
            0.5 for eresfd, 0.4 for dsfd, 0 for yunet).
        anchor_sizes: the anchors' sizes in px, ascending.
        name: which crops are taken otherwise.

    """

    height_px: int
    width_px: int
    crop_min: float = 0.3
    anchor_sampling: float = 0.5
    anchor_sizes: tuple[float, ...] = (16, 32, 64, 128, 256, 512)
    name: RecipeName = "eresfd"


def training_sample(sample: Sample, recipe: Recipe, rng: np.random.Generator) -> Sample:
    """The whole recipe: any sample -> one of `recipe.height_px` x `recipe.width_px`."""
    height, width = recipe.height_px, recipe.width_px
    interpolation = INTERPOLATIONS[rng.integers(len(INTERPOLATIONS))]
    distortion = draw_distortion(rng)
    if rng.random() < recipe.anchor_sampling and len(sample.boxes_xyxy_px):
        window = anchor_window(sample, height, width, recipe.anchor_sizes, rng)
    elif recipe.name == "eresfd":
        window = square_window(sample, height / width, recipe.crop_min, rng)
    elif recipe.name == "yunet":
        window = reaching_window(sample, height / width, REACHES, rng)
    else:
        ratio = EXPAND_RATIO if rng.random() < EXPAND_PROBABILITY else 1.0
        frame = expanded_window(sample, ratio, rng)
        window = overlap_window(sample, frame, recipe.crop_min, rng)
    if recipe.name == "yunet":
        interpolation, distortion = cv2.INTER_LINEAR, ()
    result = cut_out(sample, window, height, width, interpolation, partial(distort, distortion=distortion))
    return mirror(result) if rng.random() < 0.5 else result


def validation_sample(sample: Sample, height_px: int, width_px: int) -> Sample:
    """The whole image, scaled to fit, mean-coloured at the right and bottom; nothing random."""
    h, w = sample.image.shape[:2]
    scale = min(height_px / h, width_px / w)
    inner_h, inner_w = max(1, round(h * scale)), max(1, round(w * scale))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    image = np.empty((height_px, width_px, 3), np.uint8)
    image[:] = MEAN_RGB
    image[:inner_h, :inner_w] = cv2.resize(sample.image, (inner_w, inner_h), interpolation=interpolation)
    factor = np.array([inner_w / w, inner_h / h], np.float32)
    both = np.tile(factor, 2)
    landmarks = None if sample.landmarks_px is None else sample.landmarks_px * factor
    return Sample(image, sample.boxes_xyxy_px * both, sample.ignored_xyxy_px * both, landmarks)
