"""EResFD (Jeong et al., WACV 2024, arXiv 2204.01209) as a functional Keras model; 92,208 parameters at width 16.

Every convolution but the heads' has no bias and is followed by batch normalisation. Padding is symmetric,
`kernel // 2` on each side, also where a convolution strides: Keras' "same" pads differently there.
"""

from typing import Any

import keras
from keras import layers

from lib.geometry.anchors import AnchorSpec
from lib.models.layers import ConcatenateAnchors, MaxoutBackground, WeightedFusion

MEAN_RGB = (123.0, 117.0, 104.0)
FULL_WIDTH = 256  # width_mult 1.0
BLOCKS_PER_STAGE = (3, 3, 3, 2, 2)
MAXOUT_BACKGROUNDS = 3


def eresfd(width_mult: float = 0.0625, anchor_ratio: float = 1.25, name: str = "eresfd") -> keras.Model:
    """Builds EResFD with random weights.

    Args:
        width_mult: share of 256 channels; the published network is 0.0625 (16 channels). 256 * width_mult must be a
            positive multiple of 4, because the context modules split the channels in 2, 4 and 4 parts.
        anchor_ratio: height / width of the anchors, 0.01 to 100, kept in the model's configuration.

    Returns:
        Model from RGB images [B, H, W, 3], values 0..255, any H and W, to a dict of `boxes` (encoded offsets
        [B, n, 4]) and `scores` (logits of background and face [B, n, 2]).

    """
    width = round(FULL_WIDTH * width_mult)
    if width < 4 or width % 4 or abs(FULL_WIDTH * width_mult - width) > 1e-6:
        raise ValueError(f"256 * width_mult must be a positive multiple of 4, got width_mult={width_mult}")
    if not 0.01 <= anchor_ratio <= 100:
        raise ValueError(f"anchor_ratio, height / width, must lie in 0.01..100, got {anchor_ratio}")
    anchors = AnchorSpec(ratio=anchor_ratio)

    image = keras.Input((None, None, 3), name="image")
    x = layers.Rescaling(1.0, offset=[-mean for mean in MEAN_RGB], name="subtract_mean")(image)
    x = _conv_bn(x, width // 2, 5, "conv1", stride=4, relu=False)
    x = _conv_bn(x, width // 2, 3, "conv2")
    x = _conv_bn(x, width, 3, "conv3")
    x = _residual(x, width, "conv4")
    sources = [x]
    for stage, blocks in enumerate(BLOCKS_PER_STAGE, start=1):
        for block in range(blocks):
            x = _residual(x, width, f"stage{stage}_block{block}", stride=2 if block == 0 else 1)
        sources.append(x)

    levels = _separated_fpn(sources, width)
    boxes, scores = [], []
    for level, features in enumerate(levels):
        features = layers.ReLU(name=f"head{level}_relu")(_context_module(features, width, f"context{level}"))
        maxout = level == 0
        box = layers.Conv2D(4, 1, name=f"head{level}_boxes")(features)
        score = layers.Conv2D(MAXOUT_BACKGROUNDS + 1 if maxout else 2, 1, name=f"head{level}_scores")(features)
        if maxout:
            score = MaxoutBackground(name=f"head{level}_maxout")(score)
        boxes.append(layers.Reshape((-1, 4), name=f"head{level}_boxes_flat")(box))
        scores.append(layers.Reshape((-1, 2), name=f"head{level}_scores_flat")(score))
    outputs = {
        "boxes": ConcatenateAnchors(anchors.to_dict(), name="boxes")(boxes),
        "scores": layers.Concatenate(axis=1, name="scores")(scores),
    }
    return keras.Model(image, outputs, name=name)


def _conv_bn(x: Any, filters: int, kernel: int, name: str, stride: int = 1, relu: bool = True) -> Any:
    """Convolution, batch normalisation and, unless told otherwise, ReLU: layers `name`, `name_bn`, `name_relu`."""
    if stride > 1 and kernel > 1:
        x = layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(x)
    padding = "same" if stride == 1 else "valid"
    x = layers.Conv2D(filters, kernel, strides=stride, padding=padding, use_bias=False, name=name)(x)
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x) if relu else x


def _residual(x: Any, filters: int, name: str, stride: int = 1) -> Any:
    """Two 3x3 convolutions plus the shortcut; no activation after the addition."""
    shortcut = x if stride == 1 else _conv_bn(x, filters, 1, f"{name}_shortcut", stride, relu=False)
    y = _conv_bn(x, filters, 3, f"{name}_conv1", stride)
    y = _conv_bn(y, filters, 3, f"{name}_conv2", relu=False)
    return layers.Add(name=f"{name}_add")([shortcut, y])


def _separated_fpn(sources: list[Any], width: int) -> list[Any]:
    """FullySepFPN with separation index 4: the low path starts from the raw fifth source, not from the high path."""

    def fuse(a: Any, b: Any, name: str) -> Any:
        return WeightedFusion(name=name)([a, b])

    def up(x: Any, name: str) -> Any:
        return layers.UpSampling2D(2, interpolation="nearest", name=name)(x)

    laterals = [_conv_bn(source, width, 1, f"lateral{i}") for i, source in enumerate(sources[:5])]
    high5 = sources[5]
    high4 = fuse(laterals[4], up(high5, "up4"), "fuse4")
    low: list[Any] = [None] * 4
    above = sources[4]
    for i in (3, 2, 1, 0):
        low[i] = above = fuse(laterals[i], up(above, f"up{i}"), f"fuse{i}")
    refined = [_conv_bn(x, width, 3, f"intermediate{i}") for i, x in enumerate([low[1], low[2], low[3], high4])]
    merged = [fuse(x, sources[i + 1], f"post_fuse{i + 1}") for i, x in enumerate(refined)]
    return [low[0], *merged, high5]


def _context_module(x: Any, width: int, name: str) -> Any:
    """Cascade context module: three branches of growing receptive field, concatenated to `width` channels."""
    branch1 = _conv_bn(x, width // 2, 3, f"{name}_branch1")
    branch2 = _conv_bn(branch1, width // 4, 3, f"{name}_branch2a")
    branch2 = _conv_bn(branch2, width // 4, 3, f"{name}_branch2b")
    branch3 = _conv_bn(branch2, width // 4, 3, f"{name}_branch3a")
    branch3 = _conv_bn(branch3, width // 4, 3, f"{name}_branch3b")
    return layers.Concatenate(name=f"{name}_concat")([branch1, branch2, branch3])
