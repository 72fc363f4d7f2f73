"""Detectors for tests."""

from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from lib.geometry.anchors import AnchorSpec
from lib.models import ConcatenateAnchors, build
from lib.models.published import import_into, published_anchor_ratio
from tests.shared import shared


def random_detector(width_mult: float = 0.015625, anchor_ratio: float = 1.25, seed: int = 0) -> keras.Model:
    """EResFD with random weights whose batch statistics fit them, and whose scores spread over 0..1."""
    keras.utils.set_random_seed(seed)
    model = build("eresfd", width_mult=width_mult, anchor_ratio=anchor_ratio)
    random = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
            layer.gamma.assign(random.uniform(0.7, 1.3, layer.gamma.shape))
            layer.beta.assign(random.uniform(-0.5, 0.5, layer.beta.shape))
        elif layer.name.startswith("head") and layer.name.endswith("_scores"):
            layer.kernel.assign(2 * np.asarray(layer.kernel))
    model(random.uniform(0, 255, (2, 160, 160, 3)), training=True)
    return model


def random_dsfd(seed: int = 0, **options: Any) -> keras.Model:
    """MobileNetV2 DSFD, narrow behind its backbone, with random weights whose batch statistics fit them."""
    keras.utils.set_random_seed(seed)
    model = build("MobilenetV2", **{"fem_dims": 8, "fpn_dims": (8, 8, 8, 8, 8, 8), **options})
    random = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
        elif layer.name.endswith(("_boxes", "_scores")) and layer.weights:
            factor = 3 if layer.name.endswith("_scores") else 0.3  # boxes stay near their anchors
            layer.kernel.assign(factor * np.asarray(layer.kernel))
            layer.bias.assign(random.normal(0, 0.5, layer.bias.shape))
    model(random.uniform(0, 255, (2, 160, 160, 3)).astype(np.float32), training=True)
    return model


SMALL_ANCHORS = AnchorSpec(strides=(4, 8), sizes=(16, 32))
# As a YuNet describes itself, of two levels.
SMALL_YUNET = AnchorSpec(
    (4, 8), (4, 8), ratio=1.0, code="plain", place=0.0, scoring="geometric mean", landmarks=5, whole_px=True
)


def small_detector(channels: int = 4, seed: int = 0, anchors: AnchorSpec = SMALL_ANCHORS) -> keras.Model:
    """A detector of two levels and one residual block, of random weights: its training step compiles in a second.

    With SMALL_YUNET its outputs mean what a YuNet's mean, landmarks included.
    """
    keras.utils.set_random_seed(seed)

    def conv(x: Any, name: str, stride: int = 1) -> Any:
        x = layers.Conv2D(channels, 3, stride, padding="same", use_bias=False, name=name)(x)
        return layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(momentum=0.9, name=f"{name}_bn")(x))

    image = keras.Input((None, None, 3), name="image")
    fine = conv(layers.Rescaling(1 / 64, offset=-2, name="scale")(image), "conv1", stride=4)
    fine = layers.Add(name="add")([fine, conv(fine, "conv2")])
    levels = [fine, conv(fine, "conv3", stride=2)]
    widths = {"boxes": 4, "scores": 2} | ({"landmarks": 2 * anchors.landmarks} if anchors.landmarks else {})
    outputs = {}
    for kind, width in widths.items():
        heads = [
            layers.Reshape((-1, width), name=f"{kind}{i}_flat")(
                layers.Conv2D(width * len(anchors.scales), 1, name=f"head{i}_{kind}")(x)
            )
            for i, x in enumerate(levels)
        ]
        if kind == "boxes":
            outputs[kind] = ConcatenateAnchors(anchors.to_dict(), name=kind)(heads)
        else:
            outputs[kind] = layers.Concatenate(axis=1, name=kind)(heads)
    return keras.Model(image, outputs, name="small")


def small_detector_of(dtype: str) -> keras.Model:
    """A small detector whose layers hold and compute numbers of another kind."""
    keras.config.set_dtype_policy(dtype)
    try:
        return small_detector()
    finally:
        keras.config.set_dtype_policy("float32")


def of_one_size(model: keras.Model, height_px: int | None, width_px: int | None) -> keras.Model:
    """A copy of a detector that takes images of this size alone."""
    copy = keras.models.clone_model(model, input_tensors=keras.Input((height_px, width_px, 3), name="image"))
    copy.set_weights(model.get_weights())
    return copy


@cache
def published_detector(weights: str) -> keras.Model:
    """EResFD with published weights, e.g. "eresfd/eresfd_16.pth"; the test is skipped where they are absent."""
    folder, _, name = weights.rpartition("/")
    path = shared(f"weights/{folder}") / name
    model = build("eresfd", anchor_ratio=published_anchor_ratio(path))
    import_into(model, path)
    return model


def golden_images() -> list[Path]:
    """The five reference photographs."""
    return sorted(shared("golden/images").glob("*.jpg"))
