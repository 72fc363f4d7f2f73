"""Channels that stay at zero on images: what a training for sparsity has switched off can be taken out."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from lib.errors import DataError, ModelError
from lib.pruning.facts import facts_on_images, looked_at, silent_slots
from lib.pruning.graph.channels import ChannelGraph
from lib.pruning.graph.kinds import keeps_zero
from lib.pruning.graph.sets import Mode, SetMap
from lib.pruning.masks import Masks


def dead_channels(
    model: keras.Model,
    images: Iterable[NDArray[Any]],
    mode: Mode = "removable",
    protected: tuple[str, ...] = (),
    min_channels: int = 1,
) -> Masks:
    """The channels that are exactly zero wherever a layer looks at them, at every place of every image.

    Masking them changes nothing on these images. A channel of a tied set must be zero at each of its readers, behind
    additions and activations: what two members add may be silent only together. Of channels that reach no reader, and
    of heads, none is dead.

    Args:
        model: a functional model, as for `channel_sets`.
        images: [H, W, 3] or [B, H, W, 3] each, as the model takes them; at least one.
        mode, protected: as for `channel_sets`.
        min_channels: at least so many channels of each set stay, the first ones, even if all are dead.

    Raises:
        DataError: there is no image.

    """
    graph = ChannelGraph(model, protected)
    placed = SetMap(graph, mode)
    wanted = {number for number, _ in looked_at(placed)}
    silent = np.ones(placed.slots, bool)
    if mode == "per_layer":
        for port in placed.makers():
            silent[port.outward] &= keeps_zero(port.layer)
    count = 0
    for count, image in enumerate(images, 1):  # noqa: B007
        batch = np.asarray(image, np.float32)
        silent &= silent_slots(placed, facts_on_images(graph.flow, batch if batch.ndim == 4 else batch[None], wanted))
    if not count:
        raise DataError("dead channels cannot be found without an image to look at")
    channels = {}
    for found in placed.sets:
        dead = np.flatnonzero(silent[found.slots]).tolist()
        spared = max(0, min_channels - (found.item.size - len(dead)))
        channels[found.item.name] = tuple(dead[spared:])
    return Masks(mode, channels, protected)


def combine(a: Masks, b: Masks) -> Masks:
    """The channels that are off in one of both.

    Raises:
        ModelError: these are masks of different models or modes.

    """
    if (a.mode, a.protected, a.channels.keys()) != (b.mode, b.protected, b.channels.keys()):
        raise ModelError("masks of different models, modes or protected layers cannot be combined")
    channels = {name: tuple(sorted({*off, *b.channels[name]})) for name, off in a.channels.items()}
    return Masks(a.mode, channels, a.protected)
