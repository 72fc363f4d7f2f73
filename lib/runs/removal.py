"""The end of a run: the pruned channels are taken out, and it is shown that nothing else changed."""

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from lib.detection.formats.pb import DetectionSettings, freeze
from lib.errors import ModelError
from lib.evaluation.equality import TOLERANCE, compare, random_images
from lib.evaluation.latency import litert_latencies
from lib.pruning import Masks, removable_part, shrink
from lib.pruning.zeros import REMOVABLE

logger = logging.getLogger(__name__)

# Of the largest output, where that is more than 10: sums in another order differ by some 1e-6 of them in float32.
RELATIVE_TOLERANCE = 1e-5
RANDOM_IMAGES = 4


@dataclass(frozen=True)
class Removal:
    """A smaller model and how equal it is to the masked one.

    Attributes:
        model: without the masked channels.
        masked: how many channels the masks held.
        removed: how many of them are gone; the others are tied to channels that stay.
        difference: the largest absolute difference of any output value, on random images and on the given ones.
        images: how many images were given.
        detections: how many faces the masked model finds on them.
        same_detections: whether both find the same ones.

    """

    model: keras.Model
    masked: int
    removed: int
    difference: float
    images: int
    detections: int
    same_detections: bool


def remove(masked: keras.Model, masks: Masks, images_rgb: Sequence[NDArray[np.uint8]]) -> Removal:
    """Takes the masked channels out of a detector and compares the two.

    Args:
        masked: the detector, its masked channels zero (`lib.pruning.apply_masks`).
        masks: of mode "per_layer", only those of its channels go that are zero wherever they are read.
        images_rgb: [H, W, 3] each, at least one, to compare on besides random ones.

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
    noise, found = (compare(masked, small, images) for images in (random_images(RANDOM_IMAGES, 0), images_rgb))
    for equality, images in ((noise, random_images(RANDOM_IMAGES, 0)), (found, images_rgb)):
        _check(equality.largest_difference, masked, images)
    difference = max(noise.largest_difference, found.largest_difference)
    return Removal(small, whole, removed, difference, found.images, found.detections or 0, found.same_detections)


def _check(difference: float, masked: keras.Model, images: Sequence[NDArray[np.uint8]]) -> None:
    if difference <= TOLERANCE:
        return
    outputs = (value for image in images for value in keras.tree.flatten(masked(image[None].astype(np.float32))))
    if not difference <= RELATIVE_TOLERANCE * max(float(np.abs(value).max()) for value in outputs):
        raise ModelError(
            f"the model without the pruned channels is not the masked one: an output differs by {difference:.3g}, more "
            f"than {TOLERANCE:g}. Are the masked channels zero in filter, bias, gamma and beta?"
        )


def frozen_bytes(model: keras.Model, settings: DetectionSettings) -> int:
    """Size of the frozen graph that `lib.detection.formats.pb.freeze` writes of a detector."""
    with tempfile.TemporaryDirectory() as folder:
        size, _ = freeze(model, Path(folder) / "detector.pb", settings)
    return size


def measured(
    models: Mapping[str, keras.Model], height_px: int, width_px: int, settings: DetectionSettings, rounds: int
) -> dict[str, dict[str, float]]:
    """By model name: `pb_bytes`, and `latency_ms` in LiteRT on one thread, the shortest; {} without TensorFlow."""
    if keras.backend.backend() != "tensorflow":
        logger.info("frozen graphs and latencies are TensorFlow's; Keras runs on %s", keras.backend.backend())
        return {}
    times = litert_latencies(models, height_px, width_px, rounds)
    return {
        name: {"pb_bytes": frozen_bytes(model, settings), "latency_ms": times[name].best_ms}
        for name, model in models.items()
    }
