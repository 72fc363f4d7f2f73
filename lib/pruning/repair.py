"""Repair: what a removal does to the layers that read the channels is mended in closed form, on some photographs.

The two models are walked side by side, a layer at a time for all images. Each layer of the smaller model is solved
anew, by least squares, so that from what it now reads it says what the whole model's layer says; the ridge pulls
towards the weights as they are (after Luo et al., ThiNet, arXiv 1707.06342, section 3.3, and He et al., arXiv
1707.06168, section 3.1, which solve each layer from the unrepaired model's activations).
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import keras
import numpy as np
from keras import layers

from lib.arrays import FloatArray
from lib.errors import DataError
from lib.pruning.held import Held
from lib.pruning.masks import Masks
from lib.pruning.photographs import as_batch, is_photograph, window
from lib.pruning.walk import RepairedLayer, Walk

_TOGETHER = 64  # images
_SMALL = 128 * 128 * 3  # values of an image


@dataclass(frozen=True)
class RepairReport:
    """What a repair did.

    Attributes:
        layers: in the order in which they were solved; those that nothing changed for are not among them.
        left: layers with weights that have no rule, which stay as they are.
        images: how many were used.
        seconds: of wall time.
        peak_bytes: the most that activations in memory, sums and rows took at once.

    """

    layers: tuple[RepairedLayer, ...]
    left: tuple[str, ...]
    images: int
    seconds: float
    peak_bytes: int

    @property
    def underdetermined(self) -> tuple[str, ...]:
        """Layers with fewer positions than unknowns; of these only the ridge says what they become."""
        return tuple(layer.name for layer in self.layers if layer.positions < layer.unknowns)


def repair(
    model: keras.Model,
    small: keras.Model,
    masks: Masks,
    images: Iterable[Any],
    boxes: Sequence[FloatArray] | None = None,
    *,
    positions_per_layer: int = 60_000,
    window_px: tuple[int, int] = (384, 512),
    ridge: float = 1e-3,
    seed: int = 0,
    before_relu: bool = True,
) -> RepairReport:
    """Solves the layers of a smaller model anew; `small` is changed in place, `model` is not.

    Args:
        model: the whole model.
        small: `shrink(model, masks)`; the equality of the two ends here, so prove it before.
        masks: what was removed.
        images: uint8 [H, W, 3] (or grey [H, W]) of any sizes, or batches [B, ...] of what the model reads.
        boxes: for each image [n, 4] xyxy in px; half of the positions are then taken inside them.
        positions_per_layer: rows that a layer is solved from, over all images.
        window_px: height and width; of a larger image a window is drawn, if the model takes any size.
        ridge: pull towards the present weights, a share of the mean diagonal of X'X.
        seed: of windows and positions.
        before_relu: whether values that a ReLU cuts off on both sides count next to nothing.

    Raises:
        DataError: there is no image, or not as many boxes as images.
        ModelError: the models do not belong together.

    """
    started = time.perf_counter()
    with TemporaryDirectory(prefix="repair") as folder:
        held = Held(Path(folder))
        walk = Walk(model, small, masks, held, positions_per_layer, ridge, seed, before_relu)
        walk.take(images, boxes, window_px)
        done = walk.run()
        left = tuple(dict.fromkeys(walk.left))
        return RepairReport(tuple(done), left, walk.images, time.perf_counter() - started, held.peak)


def recalibrate(
    model: keras.Model,
    images: Iterable[Any],
    window_px: tuple[int, int] = (640, 1024),
    seed: int = 0,
    moving: bool = False,
) -> None:
    """Measures the batch statistics of every trainable batch normalisation anew, in place.

    Mean and variance are those over all images, each image (or batch of them) counting the same, as the model sees them
    in training. Small images of one size are seen `_TOGETHER` at a time: the last maps of a classifier have a single
    position, and an image alone would have no variance there.

    Args:
        images, window_px: as for `repair`, in larger windows: statistics want whole scenes.
        seed: of windows.
        moving: by each layer's own moving average instead, as training goes on: the last batches count most, and the
            statistics as they were count with momentum^batches.

    Raises:
        DataError: there is no image.

    """
    random = np.random.default_rng(seed)
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    sums = [np.zeros((3, norm.moving_mean.shape[0])) for norm in norms]
    count = 0
    try:
        for norm in [] if moving else norms:
            norm.momentum = 0.0  # the moving statistics become those of the batch
        seen = _seen(images, model, window_px, random)
        for batch, weight in ((batch, 1) for batch in seen) if moving else _together(seen):
            model(keras.tree.pack_sequence_as(model.input, keras.tree.flatten(batch)), training=True)
            count += weight
            for norm, total in zip(norms, sums, strict=True):
                mean = np.asarray(norm.moving_mean, np.float64)
                total += weight * np.stack([mean, mean**2, np.asarray(norm.moving_variance, np.float64)])
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    if not count:
        raise DataError("batch statistics cannot be measured without an image")
    if moving:
        return
    for norm, total in zip(norms, sums, strict=True):
        mean, square, variance = total / count
        norm.moving_mean.assign(mean)
        norm.moving_variance.assign(variance + np.maximum(square - mean**2, 0))


def _seen(
    images: Iterable[Any], model: keras.Model, window_px: tuple[int, int], random: np.random.Generator
) -> Iterator[Any]:
    """Each image as a batch of one, or a window of it; batches as they are."""
    for image in images:
        batch = as_batch(image, model)
        if is_photograph(image) and None in model.inputs[0].shape[1:3]:
            batch, _ = window(batch, None, window_px, random)
        yield batch


def _together(batches: Iterable[Any]) -> Iterator[tuple[Any, int]]:
    """Batches and what each counts: small images alone that follow each other in one size are put together."""
    waiting: list[Any] = []

    def whole() -> list[tuple[Any, int]]:
        found = [(np.concatenate(waiting), len(waiting))] if waiting else []
        waiting.clear()
        return found

    for batch in batches:
        small = isinstance(batch, np.ndarray) and len(batch) == 1 and batch.size <= _SMALL
        if not small or (waiting and waiting[0].shape != batch.shape):
            yield from whole()
        if small:
            waiting.append(batch)
        else:
            yield batch, 1
        if len(waiting) == _TOGETHER:
            yield from whole()
    yield from whole()
