from pathlib import Path

import keras
from keras import layers

from lib.detection.formats.litert import write
from lib.detection.lint import fallbacks, lint
from lib.geometry.anchors import AnchorSpec
from lib.models import ConcatenateAnchors
from tests.detectors import small_detector


def depthwise_detector(multiplier: int) -> keras.Model:
    image = keras.Input((None, None, 3), name="image")
    x = layers.Conv2D(8, 3, 4, padding="same", name="stem")(image)
    x = layers.DepthwiseConv2D(3, depth_multiplier=multiplier, padding="same", name="depthwise")(x)
    boxes, scores = (layers.Reshape((-1, width))(layers.Conv2D(width, 1)(x)) for width in (4, 2))
    spec = AnchorSpec(strides=(4,), sizes=(16,))
    return keras.Model(
        image, {"boxes": ConcatenateAnchors(spec.to_dict(), name="boxes")([boxes]), "scores": layers.Identity()(scores)}
    )


def test_channels_off_the_multiples_are_named_and_heads_are_not() -> None:
    assert lint(small_detector(channels=8), ("float32", "int8")) == []
    assert lint(small_detector(channels=4)) == []
    (note,) = lint(small_detector(channels=4), ("int8",))
    assert "conv1 (4), conv2 (4), conv3 (4)" in note
    assert "head" not in note
    assert "PRUNE.channel_divisor=8" in note


def test_depth_multipliers_are_named() -> None:
    assert lint(depthwise_detector(1)) == []
    (note,) = lint(depthwise_detector(2))
    assert "depth multipliers other than 1" in note
    assert "depthwise" in note


def test_operators_outside_of_xnnpack_are_counted(tmp_path: Path) -> None:
    image = keras.Input((None, None, 3), name="image")
    x = layers.Conv2D(4, 3, 4, padding="same")(image)
    x = keras.ops.repeat(x, 2, axis=1)
    boxes, scores = (layers.Reshape((-1, width))(layers.Conv2D(width, 1)(x)) for width in (4, 2))
    spec = AnchorSpec(strides=(4,), sizes=(16,))
    outputs = {"boxes": ConcatenateAnchors(spec.to_dict(), name="boxes")([boxes]), "scores": layers.Identity()(scores)}
    write(keras.Model(image, outputs), tmp_path / "odd.tflite", (32, 32))
    assert any("TILE" in note for note in fallbacks((tmp_path / "odd.tflite").read_bytes()))
    write(small_detector(), tmp_path / "plain.tflite", (32, 32))
    assert fallbacks((tmp_path / "plain.tflite").read_bytes()) == []
