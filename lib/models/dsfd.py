"""DSFD (Li et al., CVPR 2019, arXiv 1810.10220) on four backbones, as the pruned DSFD builds it.

Six feature maps of strides 4 to 128; a feature enhance module; two shots: heads on the maps as they are (small anchors,
in training only) and on the enhanced ones. Every convolution outside the backbone has a bias, unless a normalisation
follows it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any, Literal

import keras
from keras import layers

from lib.geometry.anchors import AnchorSpec
from lib.models.backbones import RANDOM, backbone
from lib.models.layers import ConcatenateAnchors, CroppedMultiply, L2Normalization, MaxoutBackground

Norm = Literal["BN", "GN", "None"]

STRIDES = (4, 8, 16, 32, 64, 128)
MAXOUT_BACKGROUNDS = 3
LONGER = 1.5  # height / width of an anchor with rect_longer
GROUPS = 16  # of a group normalisation
FIRST_SHOT = "first_"  # begins the names of the first shot's outputs and layers

# Endpoints whose channels the seed's `pruned_ratio` lists, in its order.
VGG_ENDPOINTS = (
    *("conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv3_3", "conv4_1", "conv4_2", "conv4_3"),
    *("conv5_1", "conv5_2", "conv5_3", "fc6", "fc7", "extra_conv1", "extra_conv2", "extra_conv3", "extra_conv4"),
)


@dataclass(frozen=True)
class _Design:
    """What DSFD adds to a backbone.

    Attributes:
        fpn_dims: channels of the six maps; those of the first three are the enhance module's.
        extra: channels of the four extra convolutions: 1x1, 3x3 with stride 2, and again.
        norm: the normalisation behind them.
        l2_levels: so many of the finest maps are L2-normalised, before and after they are enhanced.

    """

    fpn_dims: tuple[int, ...]
    extra: tuple[int, int, int, int]
    norm: Norm
    l2_levels: int = 0


_RESNET = _Design((256, 512, 1024, 2048, 512, 256), (512, 512, 128, 256), "BN")
DESIGNS: dict[str, _Design] = {
    "vgg_16": _Design((256, 512, 512, 1024, 512, 256), (256, 512, 128, 256), "None", l2_levels=3),
    "resnet_v1_50": _RESNET,
    "resnet_v1_101": _RESNET,
    "MobilenetV2": _Design((96, 96, 288, 160, 256, 256), (128, 256, 128, 256), "BN"),
}


def dsfd(
    net_structure: str,
    *,
    fpn: bool = True,
    dual_mode: bool = True,
    maxout: bool = True,
    norm: Norm | None = None,
    l2_norm: Sequence[float] = (10, 8, 5),
    fpn_dims: Sequence[int] = (),
    fem_dims: int = 512,
    frozen_stages: int = -1,
    lock_basenet_bn: bool = False,
    anchor_sizes: Sequence[float] = (16, 32, 64, 128, 256, 512),
    anchor_ratios: Sequence[float] = (1, 4),
    rect_longer: bool = True,
    pixel_mean: Sequence[float] = (123, 116, 103),
    pixel_std: Sequence[float] = (58, 57, 57),
    backbone_weights: str = RANDOM,
) -> keras.Model:
    """Builds a DSFD.

    Args:
        net_structure: "vgg_16", "resnet_v1_50", "resnet_v1_101" or "MobilenetV2".
        fpn: whether the feature enhance module is there; without it the heads see the maps as they are.
        dual_mode: whether there are two shots; needs `fpn` and two anchor ratios. Without it one shot has all anchors.
        maxout: whether level 0 has three background scores, of which the largest counts.
        norm: of the layers behind the backbone, but for enhance module and heads: batch or group normalisation or
            "None"; None: as the backbone is used ("None" for VGG, "BN" for the others).
        l2_norm: VGG only: initial scales of the L2 normalisation of the first three maps.
        fpn_dims: channels in the enhance module's products, level by level (the first three count); (): the backbone's.
        fem_dims: channels of each enhanced map, a multiple of 4.
        frozen_stages, lock_basenet_bn, backbone_weights, pixel_mean, pixel_std: see `lib.models.backbones.backbone`.
        anchor_sizes: anchor widths in px, one a level, at ratio 1.
        anchor_ratios: one anchor a cell for each, of 1 / ratio of the area: 4 is half the width. With `dual_mode` the
            smaller one is the first shot's.
        rect_longer: anchors are 1.5 times as high as wide instead of square.

    Returns:
        Model from RGB images [B, H, W, 3], values 0..255, any H and W, to a dict of `boxes` (offsets [B, n, 4]) and
        `scores` (logits of background and face [B, n, 2]), and with two shots `first_boxes` and `first_scores`, which
        only training needs.

    Raises:
        ValueError: options that do not go together.
        ModelError: the backbone's weights cannot be had.

    """
    design = DESIGNS[net_structure]
    scales = _anchor_scales(anchor_ratios)
    two_shots = fpn and dual_mode
    if two_shots and len(scales) != 2:
        raise ValueError(f"dual_mode needs two anchor ratios, one a shot, got {tuple(anchor_ratios)}")
    if fem_dims < 4 or fem_dims % 4:
        raise ValueError(f"fem_dims must be a positive multiple of 4, got {fem_dims}")
    dims = tuple(fpn_dims) or design.fpn_dims
    if len(dims) != len(STRIDES) or min(dims) < 1:
        raise ValueError(f"fpn_dims needs six positive numbers, one a level, got {dims}")
    if design.l2_levels and len(l2_norm) != design.l2_levels:
        raise ValueError(f"l2_norm needs {design.l2_levels} scales, got {tuple(l2_norm)}")
    image, sources = backbone(net_structure, backbone_weights, pixel_mean, pixel_std, frozen_stages, lock_basenet_bn)
    sources = _with_extras(net_structure, sources, norm or design.norm)
    sources = _l2_normalized(sources, l2_norm[: design.l2_levels], "source")

    def heads(maps: list[Any], own_scales: tuple[float, ...], prefix: str = "") -> dict[str, Any]:
        ratio = LONGER if rect_longer else 1.0
        return _heads(maps, AnchorSpec(STRIDES, tuple(anchor_sizes), ratio, own_scales, "corners"), maxout, prefix)

    if not fpn:
        outputs = heads(sources, scales)
    else:
        enhanced = _l2_normalized(_enhanced(sources, dims, fem_dims), l2_norm[: design.l2_levels], "enhanced")
        outputs = heads(enhanced, scales[:1] if two_shots else scales)
        if two_shots:
            outputs |= heads(sources, scales[1:], FIRST_SHOT)
    return keras.Model(image, outputs, name=f"dsfd_{net_structure}".lower())


def named_ratios(model: keras.Model, ratios: Any) -> Any:
    """The pruned DSFD's list of 19 `pruned_ratio`s by the names of its endpoints, if `model` is a VGG-16 DSFD.

    The enhance module's endpoints are not in that list and get 0. Anything else is returned as it is.
    """
    names = {layer.name for layer in model.layers}
    if isinstance(ratios, list | tuple) and len(ratios) == len(VGG_ENDPOINTS) and names.issuperset(VGG_ENDPOINTS):
        return {**dict(zip(VGG_ENDPOINTS, ratios, strict=True)), "*": 0.0}
    return ratios


def _anchor_scales(ratios: Sequence[float]) -> tuple[float, ...]:
    """Widths in sizes of the level, largest first: the seed's ratios divide areas."""
    if not ratios or min(ratios) <= 0:
        raise ValueError(f"anchor ratios must be positive, got {tuple(ratios)}")
    return tuple(sorted((ratio**-0.5 for ratio in ratios), reverse=True))


def _with_extras(net_structure: str, sources: list[Any], norm: Norm) -> list[Any]:
    """The backbone's maps and those of the layers behind it: six of strides 4 to 128."""
    if net_structure == "vgg_16":
        x = layers.MaxPooling2D(2, padding="same", name="pool5")(sources[-1])
        x = _conv(x, 1024, 3, "fc6", norm)
        sources = [*sources, _conv(x, 1024, 1, "fc7", norm)]
    for first in (1, 3):
        narrow, wide = DESIGNS[net_structure].extra[first - 1 : first + 1]
        x = _conv(sources[-1], narrow, 1, f"extra_conv{first}", norm)
        sources = [*sources, _conv(x, wide, 3, f"extra_conv{first + 1}", norm, stride=2)]
    return sources


def _conv(x: Any, filters: int, kernel: int, name: str, norm: Norm, stride: int = 1, dilation: int = 1) -> Any:
    """Convolution, normalisation and ReLU: layers `name`, `name_bn` or `name_gn`, `name_relu`."""
    x = layers.Conv2D(
        filters, kernel, strides=stride, padding="same", dilation_rate=dilation, use_bias=norm == "None", name=name
    )(x)
    if norm == "BN":
        x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_bn")(x)
    elif norm == "GN":
        x = layers.GroupNormalization(gcd(GROUPS, filters), epsilon=1e-5, name=f"{name}_gn")(x)
    return layers.ReLU(name=f"{name}_relu")(x)


def _l2_normalized(maps: list[Any], scales: Sequence[float], name: str) -> list[Any]:
    finest = [L2Normalization(scale, name=f"{name}{level}_l2")(maps[level]) for level, scale in enumerate(scales)]
    return [*finest, *maps[len(finest) :]]


def _enhanced(sources: list[Any], fpn_dims: Sequence[int], fem_dims: int) -> list[Any]:
    """Feature enhance module (arXiv 1810.10220, section 3.2): products from above, then branches of growing field."""
    maps = list(sources)
    for level in (2, 1, 0):
        own = layers.Conv2D(fpn_dims[level], 1, name=f"lateral{level}")(maps[level])
        above = layers.Conv2D(fpn_dims[level], 1, name=f"merge{level}")(maps[level + 1])
        above = layers.UpSampling2D(2, interpolation="nearest", name=f"up{level}")(above)
        maps[level] = CroppedMultiply(name=f"product{level}")([own, above])
    return [_branches(x, fem_dims, f"fem{level}") for level, x in enumerate(maps)]


def _branches(x: Any, channels: int, name: str) -> Any:
    branch1 = _conv(x, channels // 2, 3, f"{name}_branch1", "None")
    shared = _conv(x, channels // 2, 3, f"{name}_shared", "None", dilation=2)
    branch2 = _conv(shared, channels // 4, 3, f"{name}_branch2", "None")
    branch3 = _conv(shared, channels // 4, 3, f"{name}_branch3a", "None", dilation=2)
    branch3 = _conv(branch3, channels // 4, 3, f"{name}_branch3b", "None")
    return layers.Concatenate(name=f"{name}_concat")([branch1, branch2, branch3])


def _heads(maps: list[Any], anchors: AnchorSpec, maxout: bool, prefix: str) -> dict[str, Any]:
    """One shot: its two outputs by name."""
    per_cell = len(anchors.scales)
    boxes, scores = [], []
    for level, x in enumerate(maps):
        head = f"{prefix}head{level}"
        logits = MAXOUT_BACKGROUNDS + 1 if maxout and level == 0 else 2
        box = layers.Conv2D(4 * per_cell, 3, padding="same", name=f"{head}_boxes")(x)
        score = layers.Conv2D(logits * per_cell, 3, padding="same", name=f"{head}_scores")(x)
        boxes.append(layers.Reshape((-1, 4), name=f"{head}_boxes_flat")(box))
        score = layers.Reshape((-1, logits), name=f"{head}_scores_flat")(score)
        scores.append(MaxoutBackground(name=f"{head}_maxout")(score) if logits > 2 else score)
    return {
        f"{prefix}boxes": ConcatenateAnchors(anchors.to_dict(), name=f"{prefix}boxes")(boxes),
        f"{prefix}scores": layers.Concatenate(axis=1, name=f"{prefix}scores")(scores),
    }
