from typing import Any

import keras
import numpy as np
import pytest

from lib.models import build
from lib.pruning.sparsity import GroupSparsity
from lib.training.losses import BoxLoss, ScoreLoss
from lib.training.step import TrainingModel, inner_kernels
from tests.detectors import small_detector


def _compiled(model: TrainingModel, **options: Any) -> TrainingModel:
    losses = {"boxes": BoxLoss(), "scores": ScoreLoss()}
    model.compile(keras.optimizers.SGD(1e-2), loss=losses, jit_compile=False, auto_scale_loss=False, **options)
    model.make_metrics()
    return model


@pytest.fixture
def batch(rng: np.random.Generator) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    images = rng.uniform(0, 255, (4, 32, 32, 3)).astype(np.float32)
    anchors = 8 * 8 + 4 * 4
    boxes = rng.normal(0, 1, (4, anchors, 5)).astype(np.float32)
    boxes[..., 4] = rng.random((4, anchors)) < 0.1
    return images, {"boxes": boxes, "scores": boxes[..., 4].copy()}


def test_named_terms_add_up_to_the_loss(batch: Any) -> None:
    detector = small_detector()
    sparsity = GroupSparsity(detector, 0.1, 0.5)
    model = _compiled(TrainingModel(detector, decay=0.01))
    squares = sum(float((np.asarray(w) ** 2).sum()) for w in detector.trainable_variables)
    terms = model.train_on_batch(*batch, return_dict=True)
    assert terms.keys() == {"loss", "boxes_loss", "scores_loss", "pruning_loss", "weight_decay_loss"}
    assert terms["weight_decay_loss"] == pytest.approx(0.5 * 0.01 * squares, rel=1e-5)
    assert terms["pruning_loss"] > 0
    assert terms["loss"] == pytest.approx(sum(v for k, v in terms.items() if k != "loss"), rel=1e-5)
    assert sparsity.alpha == pytest.approx(0.1)

    model.reset_metrics()
    terms = model.test_on_batch(*batch, return_dict=True)
    assert terms["weight_decay_loss"] == 0  # a term of training
    assert terms["loss"] == pytest.approx(sum(v for k, v in terms.items() if k != "loss"), rel=1e-5)


def test_coupled_decay_adds_to_the_gradient_of_every_parameter(batch: Any) -> None:
    """What torch's SGD does for weight_decay: g + factor * w, for batch normalisation and biases too."""
    updates = {}
    for decay in (0.0, 0.5):
        detector = small_detector()
        before = [np.asarray(w).copy() for w in detector.trainable_variables]
        _compiled(TrainingModel(detector, decay)).train_on_batch(*batch)
        updates[decay] = [np.asarray(w) - b for w, b in zip(detector.trainable_variables, before, strict=True)]
    for plain, decayed, start in zip(updates[0.0], updates[0.5], before, strict=True):
        np.testing.assert_allclose(decayed - plain, -1e-2 * 0.5 * start, atol=2e-6)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_in_the_step_and_not_in_the_detector(batch: Any, precision: str) -> None:
    detector = small_detector()
    config = detector.get_config()
    exact = detector(batch[0])
    model = TrainingModel(detector, precision=precision)
    outputs = model(batch[0])
    for name, value in outputs.items():
        assert keras.backend.standardize_dtype(value.dtype) == "float32"
        difference = np.abs(np.asarray(value) - np.asarray(exact[name])).max()
        assert 0 < difference < 0.05 * np.abs(np.asarray(exact[name])).max()
    assert detector.get_config() == config
    assert all(keras.backend.standardize_dtype(w.dtype) == "float32" for w in detector.weights)
    np.testing.assert_array_equal(np.asarray(detector(batch[0])["boxes"]), np.asarray(exact["boxes"]))

    _compiled(model)
    first = model.train_on_batch(*batch, return_dict=True)["loss"]
    model.reset_metrics()
    assert model.train_on_batch(*batch, return_dict=True)["loss"] < first


def test_layers_are_shared_and_the_step_is_traced_once(batch: Any) -> None:
    detector = small_detector()
    model = _compiled(TrainingModel(detector))
    assert model.get_layer("conv1") is detector.get_layer("conv1")
    for _ in range(3):
        model.train_on_batch(*batch)
    assert model.traces == 1


def test_inner_kernels_are_those_of_convolutions_that_are_no_heads() -> None:
    detector = build("eresfd")
    found = set(inner_kernels(detector))
    kernels = {w.path for w in detector.trainable_variables if len(w.shape) == 4}
    assert kernels - found == {f"head{level}_{kind}/kernel" for level in range(6) for kind in ("boxes", "scores")}
    assert len(found) == len(kernels) - 12
    separable = set(inner_kernels(build("yunet_n")))
    assert "model1_conv1_point/kernel" in separable
    assert "model1_conv1/kernel" not in separable  # depthwise
    image = keras.Input((8, 8, 4))
    grouped = keras.layers.Conv2D(4, 3, groups=2)(keras.layers.Conv2D(4, 3, name="whole")(image))
    assert inner_kernels(keras.Model(image, keras.layers.Conv2D(2, 1)(grouped))) == ["whole/kernel"]
