"""DSFD's backbones: networks of `keras.applications` as far as DSFD uses them, flat, for any input size.

They differ from Keras' own in padding only: an odd height or width is halved upwards everywhere, as anchor grids are,
and an even one as before, so that published weights keep their meaning.
"""

import os
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers

from lib.arrays import FloatArray
from lib.errors import ModelError

IMAGENET, RANDOM = "imagenet", "random"
BATCH_NORM_MOMENTUM = 0.9  # Keras' 0.99 and 0.999 would need thousands of steps to forget what they start from


@dataclass(frozen=True)
class Backbone:
    """What DSFD must know of a network of `keras.applications`.

    Attributes:
        make: the function that builds it; `options` are its own.
        sources: the layers whose outputs DSFD takes, finest first, from stride 4 on.
        first: its first convolution; `shift`: the variable (layer, name) that takes up a constant added to its output,
            and the sign with which it does.
        mean, std, reversed_channels: the input that its ImageNet weights want: (RGB - mean) / std, as BGR if reversed.
        stage: which stage of the network, from 0, a layer of this name belongs to.
        renamed: pattern and replacement for its layers' names.

    """

    make: Callable[..., keras.Model]
    sources: tuple[str, ...]
    first: str
    shift: tuple[str, str, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    reversed_channels: bool
    stage: Callable[[str], int]
    options: tuple[tuple[str, Any], ...] = ()
    renamed: tuple[str, str] = ("^$", "")


def _numbered_stage(name: str) -> int:
    """conv1_*: 0, conv2_*: 1, ..."""
    number = re.match(r"conv(\d)", name)
    return int(number[1]) - 1 if number else 0


def _mobilenet_stage(name: str) -> int:
    """0: up to stride 2; then one stage a stride, each from the block that strides."""
    number = re.match(r"block_(\d+)_", name)
    return bisect_right((1, 3, 6, 13), int(number[1])) if number else 0


_CAFFE: dict[str, Any] = {"mean": (123.68, 116.779, 103.939), "std": (1.0, 1.0, 1.0), "reversed_channels": True}
_RESNET_SOURCES = "conv{}_block{}_out"

BACKBONES: dict[str, Backbone] = {
    "vgg_16": Backbone(
        keras.applications.VGG16,
        ("conv3_3", "conv4_3", "conv5_3"),
        "conv1_1",
        ("conv1_1", "bias", 1),
        stage=_numbered_stage,
        renamed=(r"block(\d)_conv(\d)", r"conv\1_\2"),
        **_CAFFE,
    ),
    "resnet_v1_50": Backbone(
        keras.applications.ResNet50,
        tuple(_RESNET_SOURCES.format(stage, blocks) for stage, blocks in ((2, 3), (3, 4), (4, 6), (5, 3))),
        "conv1_conv",
        ("conv1_conv", "bias", 1),
        stage=_numbered_stage,
        **_CAFFE,
    ),
    "resnet_v1_101": Backbone(
        keras.applications.ResNet101,
        tuple(_RESNET_SOURCES.format(stage, blocks) for stage, blocks in ((2, 3), (3, 4), (4, 23), (5, 3))),
        "conv1_conv",
        ("conv1_conv", "bias", 1),
        stage=_numbered_stage,
        **_CAFFE,
    ),
    "MobilenetV2": Backbone(
        keras.applications.MobileNetV2,
        ("block_3_expand_relu", "block_6_expand_relu", "block_13_expand_relu", "block_16_project_BN"),
        "Conv1",
        ("bn_Conv1", "moving_mean", -1),
        mean=(127.5, 127.5, 127.5),
        std=(127.5, 127.5, 127.5),
        reversed_channels=False,
        stage=_mobilenet_stage,
        options=(("alpha", 0.5),),
    ),
}


def backbone(
    name: str,
    weights: str | os.PathLike[str] = RANDOM,
    pixel_mean: Sequence[float] = (123, 116, 103),
    pixel_std: Sequence[float] = (58, 57, 57),
    frozen_stages: int = -1,
    lock_batch_norms: bool = False,
) -> tuple[Any, list[Any]]:
    """Builds a backbone from the image to the feature maps that DSFD starts from.

    The image is normalised by `pixel_mean` and `pixel_std`, whatever the weights were trained with: the first
    convolution is converted (channel order, scale, mean), so that the network computes what it was trained to compute.
    This is exact but for the outermost pixels, where padding with zeros then stands for another colour.

    Args:
        name: a key of `BACKBONES`.
        weights: "random", "imagenet" (downloaded by Keras into ~/.keras/models on first use) or a weights file of the
            `keras.applications` network without its top.
        pixel_mean, pixel_std: R, G, B, of 0..255.
        frozen_stages: stages 0 up to this one are not trained; -1: all are. Stage 0 is all before stride 4 (of VGG:
            conv1), and each stage after it begins where the stride doubles.
        lock_batch_norms: the batch normalisations keep their statistics, scales and offsets.

    Returns:
        The image [B, H, W, 3], RGB 0..255, and the feature maps, finest first, from stride 4 on.

    Raises:
        ModelError: the ImageNet weights cannot be downloaded, or the file does not fit.

    """
    facts = BACKBONES[name]
    image = keras.Input((None, None, 3), name="image")
    mean, std = np.asarray(pixel_mean, np.float64), np.asarray(pixel_std, np.float64)
    normalized = layers.Rescaling((1 / std).tolist(), (-mean / std).tolist(), name="normalize")(image)
    plain = facts.make(include_top=False, weights=None, input_tensor=normalized, **dict(facts.options))

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = {**layer.get_config(), "name": re.sub(*facts.renamed, layer.name)}
        is_norm = isinstance(layer, layers.BatchNormalization)
        if is_norm:
            config["momentum"] = BATCH_NORM_MOMENTUM
        if isinstance(layer, layers.DepthwiseConv2D) or _halves(layer):
            config["padding"] = "same"
        if facts.stage(config["name"]) <= frozen_stages or (is_norm and lock_batch_norms):
            config["trainable"] = False
        return type(layer).from_config(config)

    def call(layer: keras.layers.Layer, inputs: Any, **_: Any) -> Any:
        return inputs if _pads_below_only(layer) else layer(inputs)  # "same" pads so too, and odd sizes on both sides

    adapted = keras.models.clone_model(plain, clone_function=copy, call_function=call)
    if str(weights) != RANDOM:
        _take_weights(adapted, facts, _published(name, facts, weights), mean, std)
    return adapted.inputs[0], [adapted.get_layer(source).output for source in facts.sources]


def _halves(layer: keras.layers.Layer) -> bool:
    """Whether this is VGG's pooling, which would leave out an odd last row."""
    return isinstance(layer, layers.MaxPooling2D) and layer.pool_size == (2, 2)


def _pads_below_only(layer: keras.layers.Layer) -> bool:
    """Whether this is MobileNetV2's padding before a strided convolution: nothing above and on the left."""
    return isinstance(layer, layers.ZeroPadding2D) and layer.padding[0] == (0, 1)


def _published(name: str, facts: Backbone, weights: str | os.PathLike[str]) -> keras.Model:
    """The network of `keras.applications` with the weights."""
    try:
        return facts.make(include_top=False, weights=os.fspath(weights), **dict(facts.options))
    except Exception as error:  # a failed download is a bare Exception, and h5py raises what it likes
        if weights == IMAGENET:
            raise ModelError(
                f"the ImageNet weights of {name} cannot be downloaded ({error}); put Keras' file, without its top, "
                "into ~/.keras/models or name it as MODEL.backbone_weights, or take MODEL.backbone_weights = 'random'"
            ) from error
        raise ModelError(
            f"{weights}: expected 'imagenet', 'random' or weights of keras.applications' {facts.make.__name__}"
            f"{''.join(f', {key}={value}' for key, value in facts.options)}, without its top: {error}"
        ) from error


def _take_weights(
    model: keras.Model, facts: Backbone, published: keras.Model, mean: FloatArray, std: FloatArray
) -> None:
    for layer in published.layers:
        if layer.weights:
            model.get_layer(re.sub(*facts.renamed, layer.name)).set_weights(layer.get_weights())
    first = model.get_layer(facts.first)
    kernel, shift = converted_kernel(np.asarray(first.kernel), facts, mean, std)
    first.kernel.assign(kernel)
    owner, variable, sign = facts.shift
    variable = getattr(model.get_layer(owner), variable)
    variable.assign(np.asarray(variable) + sign * shift)


def converted_kernel(
    kernel: FloatArray, facts: Backbone, mean: FloatArray, std: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """The first convolution for images normalised as (RGB - mean) / std instead of as `facts` says.

    Returns:
        The kernel [kh, kw, 3, filters], and what must be added to the output [filters].

    """
    if facts.reversed_channels:
        kernel = kernel[:, :, ::-1]
    expected_mean, expected_std = np.asarray(facts.mean), np.asarray(facts.std)
    shift = np.einsum("hwcf,c->f", kernel, (mean - expected_mean) / expected_std)
    return kernel * (std / expected_std)[:, None], shift
