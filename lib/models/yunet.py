"""YuNet (Wu, Peng, Yu, Machine Intelligence Research 2023) as a functional Keras model; 75,856 parameters as "n".

It has no anchors of its own: every cell of three levels predicts a box relative to itself, two scores and five
landmarks. A cell is described as an anchor as large as its stride, at the cell's upper left corner.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from lib.geometry.anchors import AnchorSpec
from lib.models.layers import ConcatenateAnchors, CropToCells, PadToMultiple

STRIDES = (8, 16, 32)
LANDMARKS = 5  # right eye, left eye, nose tip, right and left corner of the mouth, as seen from the face
# Kind of prediction -> its channels, in the order in which the units are built; the first two are the scores.
PREDICTIONS = {"class": 1, "object": 1, "boxes": 4, "landmarks": 2 * LANDMARKS}
POOLED = (0, 2, 3, 4)  # stages with a 2x2 pooling before the next one


def yunet(
    *, stages: Sequence[int] = (16, 64, 64, 64, 64, 64), shared_head: bool = True, name: str = "yunet"
) -> keras.Model:
    """Builds a YuNet with random weights.

    Args:
        stages: channels of the six stages; the first is the stem. Published: (16, 64, 64, 64, 64, 64) as "n",
            (16, 32, 64, 64, 64, 64) as "s".
        shared_head: whether each level has a unit of its own before its predictions ("n").

    Returns:
        Model from RGB images [B, H, W, 3], values 0..255, any H and W, to a dict of `boxes` [B, n, 4] and `landmarks`
        [B, n, 10] (see `lib.geometry.anchors`), and `scores` [B, n, 2], logits of "class" and "object".

        The image is padded at the bottom and right with zeros to multiples of 32; cells that lie wholly in the padding
        are cut off again. Published weights are of a network that reads BGR; importing turns its first kernel round.

    """
    if len(stages) != 6 or min(stages) < 1:
        raise ValueError(f"stages needs six positive numbers of channels, got {tuple(stages)}")
    image = keras.Input((None, None, 3), name="image")
    x = PadToMultiple(STRIDES[-1], name="pad")(image)
    x = layers.ZeroPadding2D(1, name="model0_pad")(x)
    x = layers.Conv2D(stages[0], 3, strides=2, name="model0_conv1")(x)
    x = _norm_relu(x, "model0_conv1")
    x = _unit(x, stages[0], "model0_conv2")
    maps = []
    for stage, width in enumerate(stages):
        if stage:
            x = _unit(x, stages[stage - 1], f"model{stage}_conv1")
            x = _unit(x, width, f"model{stage}_conv2")
        if stage >= 3:
            maps.append(x)
        if stage in POOLED:
            x = layers.MaxPooling2D(2, name=f"model{stage}_pool")(x)

    heads: dict[str, list[Any]] = {kind: [] for kind in ("boxes", "scores", "landmarks")}
    for level, x in enumerate(_top_down(maps)):
        if shared_head:
            x = _unit(x, x.shape[-1], f"head{level}_shared")
        made = {kind: _prediction(x, width, f"head{level}_{kind}") for kind, width in PREDICTIONS.items()}
        scores = layers.Concatenate(name=f"head{level}_scores")([made["class"], made["object"]])
        for kind, values in {"boxes": made["boxes"], "scores": scores, "landmarks": made["landmarks"]}.items():
            cells = CropToCells(STRIDES[level], name=f"head{level}_{kind}_cells")([values, image])
            flat = layers.Reshape((-1, values.shape[-1]), name=f"head{level}_{kind}_flat")(cells)
            heads[kind].append(flat)
    spec = AnchorSpec(
        STRIDES,
        STRIDES,
        ratio=1.0,
        code="plain",
        place=0.0,
        scoring="geometric mean",
        landmarks=LANDMARKS,
        whole_px=True,
    )
    outputs = {
        "boxes": ConcatenateAnchors(spec.to_dict(), name="boxes")(heads["boxes"]),
        "scores": layers.Concatenate(axis=1, name="scores")(heads["scores"]),
        "landmarks": layers.Concatenate(axis=1, name="landmarks")(heads["landmarks"]),
    }
    return keras.Model(image, outputs, name=name)


def _top_down(maps: list[Any]) -> list[Any]:
    """The neck: from the coarsest map down, a unit each behind the sum with what comes from above, finest first."""
    widths = [x.shape[-1] for x in maps]
    merged = _unit(maps[-1], widths[-2], "lateral2")
    found = [merged]
    for level in (1, 0):
        above = layers.UpSampling2D(2, interpolation="nearest", name=f"up{level}")(merged)
        merged = layers.Add(name=f"merge{level}")([maps[level], above])
        merged = _unit(merged, widths[max(level - 1, 0)], f"lateral{level}")
        found.insert(0, merged)
    return found


def _unit(x: Any, filters: int, name: str) -> Any:
    """Pointwise and depthwise convolution, both with bias, batch normalisation and ReLU."""
    return _norm_relu(_prediction(x, filters, name), name)


def _prediction(x: Any, filters: int, name: str) -> Any:
    """Pointwise and depthwise convolution, both with bias: layers `name_point` and `name`."""
    x = layers.Conv2D(filters, 1, name=f"{name}_point")(x)
    return layers.DepthwiseConv2D(3, padding="same", name=name)(x)


def _norm_relu(x: Any, name: str) -> Any:
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x)
