import os
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from lib.training.strides import narrow_strided, sliced
from tests.shared import ROOT


def _gradients(layer: Any, image: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """The output, and gradients of the sum of its squares by input and weights."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("gradients are taken with TensorFlow's tape")
    import tensorflow as tf

    with tf.GradientTape() as tape:
        given = tf.constant(image)
        tape.watch(given)
        made = layer(given)
        total = ops.sum(ops.square(made))
    return np.asarray(made), [np.asarray(g) for g in tape.gradient(total, [given, *layer.trainable_variables])]


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("size", [(8, 6), (9, 7), (1, 5)])
@pytest.mark.parametrize("stride", [2, 3, (1, 2)])
def test_outputs_and_gradients_are_the_layers_own(
    padding: str, size: tuple[int, int], stride: Any, rng: np.random.Generator
) -> None:
    image = rng.normal(0, 1, (2, *size, 4)).astype(np.float32)
    layer = layers.Conv2D(6, 1, stride, padding, activation="relu", groups=2)
    layer(image)
    made, gradients = _gradients(layer, image)
    with sliced([layer]):
        other, others = _gradients(layer, image)
    np.testing.assert_allclose(other, made, atol=1e-6)
    for a, b in zip(others, gradients, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_other_ranks_compute_the_same(rng: np.random.Generator) -> None:
    for layer, shape in (
        (layers.Conv1D(3, 1, strides=2), (2, 7, 4)),
        (layers.Conv3D(3, 1, strides=2), (2, 5, 4, 3, 4)),
    ):
        data = rng.normal(0, 1, shape).astype(np.float32)
        made = np.asarray(layer(data))
        with sliced([layer]):
            np.testing.assert_allclose(np.asarray(layer(data)), made, atol=1e-6)


def test_which_layers_are_concerned_in_nested_models_too() -> None:
    inner = keras.Input((8, 8, 8))
    nest = keras.Model(inner, layers.Conv2D(4, 1, strides=2, name="inside")(inner), name="nest")
    image = keras.Input((32, 32, 3))
    x = layers.Conv2D(16, 3, strides=2, name="wide_window")(image)
    x = layers.Conv2D(8, 1, strides=2, name="enough_channels", padding="same")(x)
    x = layers.Conv2D(8, 1, name="no_stride")(x)
    model = keras.Model(image, nest(x))
    assert [layer.name for layer in narrow_strided(model)] == ["inside"]


def test_the_layer_is_itself_again_and_saved_as_it_is() -> None:
    layer = layers.Conv2D(3, 1, strides=2)
    layer.build((None, 8, 8, 4))
    config, own = layer.get_config(), type(layer).convolution_op
    with pytest.raises(KeyError), sliced([layer]):
        assert layer.get_config() == config
        assert layer.convolution_op.__name__ == own.__name__
        assert "convolution_op" in vars(layer)
        raise KeyError
    assert "convolution_op" not in vars(layer)


_CHILD = """
import keras, numpy as np
from keras import layers
from lib.training.step import TrainingModel
keras.utils.set_random_seed(0)
image = keras.Input((80, 80, 3))
outputs = {}
for width in range(4, 17):
    x = layers.Conv2D(width, 1, activation="relu")(image)
    x = layers.Conv2D(width, 1, strides=2, use_bias=False)(x)
    outputs[f"w{width}"] = layers.Reshape((-1, width))(x)
model = TrainingModel(keras.Model(image, outputs))
model.compile(keras.optimizers.SGD(0.1), loss={name: "mse" for name in outputs}, jit_compile=False)
random = np.random.default_rng(0)
images = random.normal(0, 1, (16, 80, 80, 3)).astype(np.float32)
truth = {f"w{w}": random.normal(0, 1, (16, 1600, w)).astype(np.float32) for w in range(4, 17)}
losses = [float(model.train_on_batch(images, truth, return_dict=True)["loss"]) for _ in range(10)]
assert len(model._narrow) == 12, model._narrow
assert losses[-1] < losses[0], losses
print("trained", flush=True)
"""

_CHILD_DETECTORS = """
import keras, numpy as np
from lib.models import build
from lib.pruning import plan, shrink
from lib.training.losses import BoxLoss, ScoreLoss
from lib.training.step import TrainingModel
random = np.random.default_rng(0)
images = random.uniform(0, 255, (2, 320, 320, 3)).astype(np.float32)
keras.utils.set_random_seed(0)
whole = build("eresfd", width_mult=16 / 256)
for width in (5, 10, 15):
    detector = shrink(whole, plan(whole, 1 - width / 16))
    assert detector.get_layer("stage1_block0_shortcut").kernel.shape[-1] == width
    anchors = detector(images)["boxes"].shape[1]
    boxes = random.normal(0, 1, (2, anchors, 5)).astype(np.float32)
    boxes[..., 4] = random.random((2, anchors)) < 0.1
    model = TrainingModel(detector)
    losses = {"boxes": BoxLoss(), "scores": ScoreLoss()}
    model.compile(keras.optimizers.SGD(1e-3), loss=losses, jit_compile=False, auto_scale_loss=False)
    for _ in range(10):
        model.train_on_batch(images, {"boxes": boxes, "scores": boxes[..., 4]})
print("trained", flush=True)
"""


def _runs(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["trained"]


def test_every_width_trains() -> None:
    """In a process of its own, which is what the crash kills; at the size at which it does."""
    _runs(_CHILD)


@pytest.mark.slow
def test_detectors_of_three_widths_train() -> None:
    _runs(_CHILD_DETECTORS)
