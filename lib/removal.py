"""The end of a run: the pruned channels are taken out, and it is shown that nothing else changed."""

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from lib.detection import FaceDetector
from lib.errors import ModelError
from lib.export import DetectionSettings, freeze
from lib.latency import litert_latencies
from lib.pruning import CostModel, Masks, largest_difference, shrink
from lib.report import markdown_table

logger = logging.getLogger(__name__)

LARGEST_DIFFERENCE = 1e-4  # of any output, where outputs are of the order of 1 to 10
RELATIVE_DIFFERENCE = 1e-5  # of the largest output, where that is more: float32 sums in another order differ by 1e-6
_RANDOM_IMAGES, _RANDOM_SIDE_PX = 4, 128
_SAME_PX, _SAME_SCORE = 0.1, 1e-3  # what a largest difference of 1e-4 can make of a decoded box, and more


@dataclass(frozen=True)
class Removal:
    """A smaller model and how equal it is to the masked one.

    Attributes:
        model: without the masked channels.
        difference: the largest absolute difference of any output value, on random images and on the given ones.
        images: how many images were given.
        same_detections: on how many of them both find the same boxes with the same scores.

    """

    model: keras.Model
    difference: float
    images: int
    same_detections: int


def remove(
    masked: keras.Model, masks: Masks, images_rgb: Sequence[NDArray[np.uint8]], settings: DetectionSettings
) -> Removal:
    """Takes the masked channels out of a detector and compares the two.

    Args:
        masked: the detector, its masked channels zero (`lib.pruning.apply_masks`).
        masks: of mode "removable".
        images_rgb: [H, W, 3] each, to compare on besides random ones.
        settings: of the detections that are compared.

    Raises:
        ModelError: an output differs by more than `LARGEST_DIFFERENCE`, and by more than `RELATIVE_DIFFERENCE` of the
            largest output; or the masks do not fit the model.

    """
    small = shrink(masked, masks)
    random = np.random.default_rng(0)
    noise = random.uniform(0, 255, (_RANDOM_IMAGES, _RANDOM_SIDE_PX, _RANDOM_SIDE_PX, 3))
    batches = [noise.astype(np.float32), *(image[None].astype(np.float32) for image in images_rgb)]
    differences = [largest_difference(masked, small, batch) for batch in batches]
    for difference, batch in zip(differences, batches, strict=True):
        _check(difference, masked, batch)
    detectors = [FaceDetector(model, settings.iou_threshold, settings.max_detections) for model in (masked, small)]
    same = 0
    for image in images_rgb:
        ours, theirs = (detector(image, settings.score_threshold) for detector in detectors)
        same += ours.shape == theirs.shape and bool((np.abs(ours - theirs) <= [_SAME_PX] * 4 + [_SAME_SCORE]).all())
    return Removal(small, max(differences), len(images_rgb), same)


def _check(difference: float, masked: keras.Model, batch: NDArray[np.float32]) -> None:
    if difference <= LARGEST_DIFFERENCE:
        return
    largest = max(float(np.abs(value).max()) for value in keras.tree.flatten(masked(batch, training=False)))
    if not difference <= RELATIVE_DIFFERENCE * largest:
        raise ModelError(
            f"the model without the pruned channels is not the masked one: an output differs by {difference:.3g}, more "
            f"than {LARGEST_DIFFERENCE:g}. Are the masked channels zero in filter, bias, gamma and beta?"
        )


def plan_table(model: keras.Model, masks: Masks, height_px: int, width_px: int) -> str:
    """What these masks will leave, as a table: each set's channels before and after; then parameters and MACs.

    Args:
        masks: of mode "removable".

    """
    costs = CostModel(model, height_px, width_px, masks.protected)
    kept = {item.name: item.size - len(masks.channels[item.name]) for item in costs.sets}
    rows = [[item.name, str(item.size), str(kept[item.name])] for item in costs.sets]
    full, left = costs.full, costs.of(kept)
    return (
        f"{markdown_table(['channels of', 'now', 'after'], rows)}\n\n"
        f"parameters: {full.parameters:,} -> {left.parameters:,} ({left.parameters / full.parameters:.1%})\n"
        f"MACs at {height_px}x{width_px}: {full.macs / 1e6:.2f} M -> {left.macs / 1e6:.2f} M "
        f"({left.macs / full.macs:.1%})"
    )


def frozen_bytes(model: keras.Model, settings: DetectionSettings) -> int:
    """Size of the frozen graph that `lib.export.freeze` writes of a detector."""
    with tempfile.TemporaryDirectory() as folder:
        size, _ = freeze(model, Path(folder) / "detector.pb", settings)
    return size


def measured(
    models: Mapping[str, keras.Model], height_px: int, width_px: int, settings: DetectionSettings, rounds: int
) -> dict[str, dict[str, float]]:
    """By model name: `pb_bytes`, and `latency_ms` in LiteRT on one thread, measured in turns; {} without TensorFlow."""
    if keras.backend.backend() != "tensorflow":
        logger.info("frozen graphs and latencies are TensorFlow's; Keras runs on %s", keras.backend.backend())
        return {}
    times = litert_latencies(models, height_px, width_px, rounds)
    return {
        name: {"pb_bytes": frozen_bytes(model, settings), "latency_ms": times[name].median_ms}
        for name, model in models.items()
    }
