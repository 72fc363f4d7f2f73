"""The pruned channels are taken out, and it is shown that nothing else changed."""

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import NDArray

from lib.errors import ModelError
from lib.evaluation.equality import TOLERANCE, compare_each, random_images
from lib.pruning import Masks, removable_part, shrink
from lib.pruning.zeros import REMOVABLE

# Of the largest output, where that is more than 10: sums in another order differ by some 1e-6 of them in float32.
RELATIVE_TOLERANCE = 1e-5
RANDOM_IMAGES = 4


@dataclass(frozen=True)
class Proof:
    """How equal a smaller model is to the masked one.

    Attributes:
        masked: how many channels the masks held.
        removed: how many of them are gone; the others are tied to channels that stay.
        difference: the largest absolute difference of any output value, on random images and on the given ones.
        images: how many images were given.
        detections: how many faces the masked model finds on them.
        same_detections: whether both find the same ones; with no image given, the same on the random ones.

    """

    masked: int
    removed: int
    difference: float
    images: int
    detections: int
    same_detections: bool


def remove(masked: keras.Model, masks: Masks, images_rgb: Sequence[NDArray[np.uint8]]) -> tuple[keras.Model, Proof]:
    """Takes the masked channels out of a detector and compares the two.

    Args:
        masked: the detector, its masked channels zero (`lib.pruning.apply_masks`).
        masks: of mode "per_layer", only those of its channels go that are zero wherever they are read.
        images_rgb: [H, W, 3] each, at least 16 px on both sides, to compare on besides random ones.

    Returns:
        The model without them, and the proof.

    Raises:
        ModelError: an output differs by more than `lib.evaluation.equality.TOLERANCE`, and by more than
            `RELATIVE_TOLERANCE` of the largest output; or the masks do not fit the model.

    """
    whole = sum(map(len, masks.channels.values()))
    removed = whole
    if masks.mode == "per_layer":
        part = removable_part(masked, masks.protected)
        masks, removed = part.masks, part.counts()[REMOVABLE]
    small = shrink(masked, masks)
    noise = random_images(RANDOM_IMAGES, 0)
    sources = [noise, images_rgb] if images_rgb else [noise]
    compared = compare_each(masked, small, sources)
    for equality, images in zip(compared, sources, strict=True):
        _check(equality.largest_difference, masked, images)
    difference = max(equality.largest_difference for equality in compared)
    detections = (compared[-1].detections or 0) if images_rgb else 0
    return small, Proof(whole, removed, difference, len(images_rgb), detections, compared[-1].same_detections)


def _check(difference: float, masked: keras.Model, images: Sequence[NDArray[np.uint8]]) -> None:
    if difference <= TOLERANCE:
        return
    outputs = (value for image in images for value in keras.tree.flatten(masked(image[None].astype(np.float32))))
    if not difference <= RELATIVE_TOLERANCE * max(float(np.abs(value).max()) for value in outputs):
        raise ModelError(
            f"the model without the pruned channels is not the masked one: an output differs by {difference:.3g}, more "
            f"than {TOLERANCE:g}. Are the masked channels zero in filter, bias, gamma and beta?"
        )
