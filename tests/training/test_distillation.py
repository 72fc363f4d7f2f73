from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from lib.config import Config
from lib.data.annotations import Record
from lib.data.scenes import SampleSet
from lib.data.sources import unlabelled
from lib.errors import ConfigError, ModelError
from lib.models import load, save
from lib.pruning import plan, shrink
from lib.runs.wiring import make_trainer
from lib.training.distillation import Distillation, DistillationSettings
from tests.detectors import SMALL_ANCHORS, SMALL_YUNET, small_detector
from tests.networks import lively

TERMS = {"distil_scores_loss", "distil_boxes_loss"}


@pytest.fixture
def teacher(tmp_path: Path) -> DistillationSettings:
    """A small detector's file."""
    model = small_detector(seed=7)
    for i in (0, 1):  # scores that spread over 0..1
        head = model.get_layer(f"head{i}_scores")
        head.kernel.assign(4 * np.asarray(head.kernel))
    save(model, tmp_path / "teacher.keras")
    return DistillationSettings(str(tmp_path / "teacher.keras"))


@pytest.fixture
def config(teacher: DistillationSettings) -> Config:
    config = Config()
    config.DATA.hin = config.DATA.win = 64
    config.TRAIN.batch_size = 4
    config.TRAIN.process_num = 1
    config.DISTIL.teacher = teacher.teacher
    return config


@pytest.fixture
def records(samples: SampleSet) -> list[Record]:
    return unlabelled(samples.train_images)[:8]  # two batches


def _images(rng: np.random.Generator) -> Any:
    return rng.uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)


def _locked(model: keras.Model) -> keras.Model:
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    return model


def _gradients(distillation: Distillation, student: keras.Model, images: Any) -> list[np.ndarray]:
    """Of the terms' sum, by TensorFlow's tape."""
    tf = pytest.importorskip("tensorflow")
    with tf.GradientTape() as tape:
        loss = sum(distillation.terms(images, student(images)).values())
    return [np.asarray(g) for g in tape.gradient(loss, student.trainable_variables)]


def test_of_a_yunet_both_probabilities_and_landmarks_are_taught(tmp_path: Path, rng: np.random.Generator) -> None:
    teacher = lively(small_detector(anchors=SMALL_YUNET), rng, side_px=32)
    save(teacher, tmp_path / "teacher.keras")
    settings = DistillationSettings(str(tmp_path / "teacher.keras"), scores=2.0, boxes=3.0, landmarks=5.0, focus=0.0)
    student, images = load(tmp_path / "teacher.keras"), _images(rng)
    distillation = Distillation(student, settings)
    assert set(distillation.names) == {*TERMS, "distil_landmarks_loss"}
    assert all(float(term) == 0 for term in distillation.terms(images, student(images)).values())

    taught = {name: np.asarray(value, np.float64) for name, value in teacher(images).items()}
    said = {name: value + rng.normal(0, 0.5, value.shape) for name, value in taught.items()}
    p, q = (1 / (1 + np.exp(-values["scores"])) for values in (taught, said))
    divergence = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum()
    sure = np.maximum(2 * np.sqrt(p.prod(axis=-1)) - 1, 0)
    count = max(sure.sum(), len(images))

    def smooth_l1(kind: str) -> Any:
        apart = np.abs(taught[kind] - said[kind])
        return np.where(apart < 1, apart**2 / 2, apart - 0.5).sum(axis=-1)

    found = distillation.terms(images, {name: value.astype(np.float32) for name, value in said.items()})
    expected = {
        "distil_scores_loss": 2 * divergence / count,
        "distil_boxes_loss": 3 * (sure * smooth_l1("boxes")).sum() / count,
        "distil_landmarks_loss": 5 * (sure * smooth_l1("landmarks")).sum() / count,
    }
    assert sure.sum() > 0
    assert {name: float(value) for name, value in found.items()} == pytest.approx(expected, rel=1e-4)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="reads gradients with TensorFlow's tape")
@pytest.mark.parametrize("focus", [0.0, 1.0])
def test_who_equals_the_teacher_is_left_alone(
    teacher: DistillationSettings, focus: float, rng: np.random.Generator
) -> None:
    student, images = load(teacher.teacher), _images(rng)
    distillation = Distillation(student, replace(teacher, focus=focus, temperature=2.0))
    terms = distillation.terms(images, student(images))
    assert terms.keys() == TERMS
    assert all(float(term) == 0 for term in terms.values())
    assert all(np.abs(g).max() < 1e-6 for g in _gradients(distillation, student, images))
    others = _gradients(distillation, small_detector(), images)
    assert max(np.abs(g).max() for g in others) > 1e-2


def test_the_terms_are_what_they_are_said_to_be(teacher: DistillationSettings, rng: np.random.Generator) -> None:
    """In double precision and from the probabilities themselves."""
    student, images = small_detector(), _images(rng)
    settings = replace(teacher, scores=0.5, boxes=3.0, temperature=2.0, focus=1.5)
    terms = Distillation(student, settings).terms(images, ours := student(images))
    theirs = load(teacher.teacher)(images)

    def sigmoid(scores: Any, temperature: float = 1.0) -> Any:
        scores = np.asarray(scores, np.float64)
        return 1 / (1 + np.exp((scores[..., 0] - scores[..., 1]) / temperature))

    (p, p2), (q, q2) = ([sigmoid(x["scores"], t) for t in (1.0, 2.0)] for x in (theirs, ours))
    kl = 4 * (p2 * np.log(p2 / q2) + (1 - p2) * np.log((1 - p2) / (1 - q2)))
    sure = np.maximum(2 * p - 1, 0)
    expected = 0.5 * (np.abs(p - q) ** 1.5 * kl).sum() / sure.sum()
    assert sure.sum() > len(images)
    assert float(terms["distil_scores_loss"]) == pytest.approx(expected, rel=1e-4)
    d = np.abs(np.asarray(theirs["boxes"], np.float64) - np.asarray(ours["boxes"], np.float64))
    smooth = np.where(d < 1, d * d / 2, d - 0.5).sum(axis=-1)
    assert float(terms["distil_boxes_loss"]) == pytest.approx(3 * (sure * smooth).sum() / sure.sum(), rel=1e-4)


def test_a_term_of_weight_0_is_none(teacher: DistillationSettings) -> None:
    assert Distillation(small_detector(), replace(teacher, boxes=0.0)).names == ("distil_scores_loss",)


def test_a_teacher_without_a_say_is_refused(teacher: DistillationSettings, tmp_path: Path) -> None:
    silent = replace(teacher, scores=0.0, boxes=0.0)
    with pytest.raises(ConfigError, match=r"DISTIL\.scores and DISTIL\.boxes are 0, so that DISTIL\.teacher has no"):
        Distillation(small_detector(), silent)
    model = small_detector(anchors=SMALL_YUNET)
    save(model, tmp_path / "yunet.keras")
    of_landmarks = replace(silent, teacher=str(tmp_path / "yunet.keras"))
    assert Distillation(model, of_landmarks).names == ("distil_landmarks_loss",)
    with pytest.raises(ConfigError, match=r"boxes and DISTIL\.landmarks are 0"):
        Distillation(model, replace(of_landmarks, landmarks=0.0))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="reads gradients with TensorFlow's tape")
def test_scores_beyond_all_bounds_give_finite_gradients(teacher: DistillationSettings) -> None:
    """Times float16's first loss scale, 2^15, too."""
    tf = pytest.importorskip("tensorflow")
    distillation = Distillation(small_detector(), replace(teacher, focus=0.5))
    distillation.teacher = lambda *_, **__: {
        "scores": ops.convert_to_tensor(np.array([[[1e4, -1e4], [-1e4, 1e4], [0, 0]]], np.float32)),
        "boxes": ops.convert_to_tensor(np.full((1, 3, 4), 50, np.float32)),
    }
    ours = {
        "scores": tf.Variable([[[-1e4, 1e4], [1e4, -1e4], [0.0, 0.0]]]),
        "boxes": tf.Variable(-50 * tf.ones((1, 3, 4))),
    }
    with tf.GradientTape() as tape:
        loss = 2.0**15 * sum(distillation.terms(None, ours).values())
    assert np.isfinite(float(loss))
    assert all(np.isfinite(np.asarray(g)).all() for g in tape.gradient(loss, ours).values())


def test_a_teacher_without_faces_gives_finite_terms(teacher: DistillationSettings, rng: np.random.Generator) -> None:
    student = small_detector()
    distillation = Distillation(student, teacher)
    for i in (0, 1):
        distillation.teacher.get_layer(f"head{i}_scores").bias.assign([200.0, -200.0])
    terms = distillation.terms(images := _images(rng), student(images))
    assert all(np.isfinite(float(term)) for term in terms.values())


def test_ten_steps_bring_a_pruned_model_nearer_and_leave_the_teacher_alone(
    config: Config, records: list[Record], tmp_path: Path
) -> None:
    """With locked batch norms, averaged weights and accumulated gradients; nothing of the teacher is saved."""
    config.TRAIN.ema, config.TRAIN.accumulate, config.TRAIN.weight_decay_factor = 0.5, 2, 0.0
    whole = load(config.DISTIL.teacher)
    student = _locked(shrink(whole, plan(whole, 0.5)))
    trainer = make_trainer(student, config)
    distillation = trainer.training_model._distillation
    assert distillation is not None
    before = distillation.teacher.get_weights()
    train = trainer.dataset(records, augment=False)
    images = ops.convert_to_tensor(train[0][0], "float32")

    def distance() -> float:
        return sum(float(term) for term in distillation.terms(images, student(images)).values())

    start = distance()
    trainer.train_steps(train, 0, 10, 1e-2)
    assert distance() < 0.8 * start
    assert trainer.traces == 1
    logs = {name: float(value) for name, value in trainer.training_model.get_metrics_result().items()}
    assert logs.keys() == {"loss", "boxes_loss", "scores_loss", *TERMS}
    assert logs["loss"] == pytest.approx(sum(logs[name] for name in TERMS), rel=1e-4)
    assert logs["boxes_loss"] == logs["scores_loss"] == 0
    assert trainer.validate(train).keys() == {"loss", "boxes_loss", "scores_loss"}

    assert all(np.array_equal(a, b) for a, b in zip(before, distillation.teacher.get_weights(), strict=True))
    shapes = [tuple(w.shape) for w in student.weights]
    trainer.save(tmp_path / "plain.keras")
    trainer.save_checkpoint(tmp_path / "checkpoint.keras")
    for name in ("plain", "checkpoint"):
        assert [tuple(w.shape) for w in load(tmp_path / f"{name}.keras").weights] == shapes
    assert len(trainer.training_model.weights) == len(student.weights) + len(trainer.held.variables)


def test_two_steps_resumed_after_the_first_end_as_if_they_had_not_been(
    config: Config, records: list[Record], tmp_path: Path
) -> None:
    """In half precision and with masks held; the teacher is no state."""
    config.TRAIN.mixed_precision = "float16"
    trainer = make_trainer(small_detector(), config)
    trainer.held.hold(plan(trainer.model, 0.5))
    train = trainer.dataset(records, augment=True)
    trainer.train_steps(train, 0, 1, 1e-3)
    trainer.save_checkpoint(tmp_path / "c.keras")
    trainer.train_steps(train, 1, 1, 1e-3)
    again = make_trainer(small_detector(seed=1), config)
    again.restore(tmp_path / "c.keras")
    again.held.hold(plan(again.model, 0.5))
    again.train_steps(train, 1, 1, 1e-3)
    ours, theirs = (x.model.get_weights() for x in (again, trainer))
    assert all(np.isfinite(a).all() and np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_who_cannot_teach_is_named(teacher: DistillationSettings, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nobody\.keras: no such file"):
        Distillation(small_detector(), replace(teacher, teacher=str(tmp_path / "nobody.keras")))
    with pytest.raises(ModelError, match=r"teacher\.keras: the anchors of this teacher are not those"):
        Distillation(small_detector(anchors=replace(SMALL_ANCHORS, ratio=1.5)), teacher)
    image = keras.Input((None, None, 3))
    save(keras.Model(image, keras.layers.Conv2D(1, 1)(image)), tmp_path / "other.keras")
    with pytest.raises(ModelError, match=r"no face detector"):
        Distillation(small_detector(), replace(teacher, teacher=str(tmp_path / "other.keras")))
    model = load(teacher.teacher)
    fixed = keras.Input((64, 96, 3))
    save(keras.Model(fixed, model(fixed), name="fixed"), tmp_path / "fixed.keras")
    with pytest.raises(ModelError, match=r"takes images \(None, 64, 96, 3\), the model in training"):
        Distillation(small_detector(), replace(teacher, teacher=str(tmp_path / "fixed.keras")))
