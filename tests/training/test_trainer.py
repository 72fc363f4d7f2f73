from dataclasses import replace
from pathlib import Path
from typing import Literal

import keras
import numpy as np
import pytest

from lib.config import Config
from lib.data.annotations import Record, read_annotations
from lib.data.scenes import SampleSet
from lib.errors import ModelError
from lib.models import load
from lib.pruning import plan
from lib.runs.wiring import make_trainer, trainer_settings
from lib.training.callbacks import LearningRate
from lib.training.optimizer import LearningRates
from lib.training.trainer import Trainer
from tests.detectors import small_detector


@pytest.fixture
def config() -> Config:
    config = Config()
    config.DATA.hin = config.DATA.win = 64
    config.TRAIN.batch_size = 4
    config.TRAIN.process_num = 1
    return config


@pytest.fixture
def records(samples: SampleSet) -> list[Record]:
    return read_annotations(samples.train_annotations, samples.train_images)[:12]  # three batches


def _equal(ours: list[np.ndarray], theirs: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_steps_and_epochs_train_alike_and_nothing_is_compiled_twice(config: Config, records: list[Record]) -> None:
    trainer = make_trainer(small_detector(), config)
    start = trainer.model.get_weights()
    train = trainer.dataset(records, augment=True)
    trainer.fit(train, 2, [LearningRate(LearningRates((1e-3,)), 0, 3)])
    by_epochs = trainer.model.get_weights()

    trainer.set_weights(start)
    trainer.reset_optimizer()
    trainer.train_steps(train, 0, 2, 1e-3)
    trainer.train_steps(train, 2, 4, 1e-3)  # over the epoch's end
    assert not _equal(by_epochs, start)
    assert _equal(trainer.model.get_weights(), by_epochs)
    assert trainer.traces == 1


def test_a_checkpoint_brings_back_weights_and_momenta(config: Config, records: list[Record], tmp_path: Path) -> None:
    trainer = make_trainer(small_detector(), config)
    train = trainer.dataset(records, augment=True)
    trainer.train_steps(train, 0, 2, 1e-3)
    trainer.model.save(tmp_path / "c.keras")
    trainer.train_steps(train, 2, 3, 1e-3)
    expected = trainer.model.get_weights()

    again = make_trainer(small_detector(seed=1), config)
    again.restore(tmp_path / "c.keras")
    again.train_steps(train, 2, 3, 1e-3)
    assert _equal(again.model.get_weights(), expected)

    again.save(tmp_path / "plain.keras")
    assert not keras.saving.load_model(tmp_path / "plain.keras").compiled
    with pytest.raises(ModelError, match="not a checkpoint of this detector and optimiser"):
        again.restore(tmp_path / "plain.keras")


def test_batch_normalisations_locked_for_a_while(config: Config, records: list[Record], tmp_path: Path) -> None:
    config.TRAIN.ema = 0.9
    model = small_detector()
    trainer = Trainer(model, replace(trainer_settings(config, model), lock_norms=True))
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    before, kernel = [layer.get_weights() for layer in norms], np.array(model.get_layer("conv1").kernel)
    trainer.train_steps(trainer.dataset(records, augment=True), 0, 2, 1e-2)
    assert all(_equal(layer.get_weights(), old) for layer, old in zip(norms, before, strict=True))
    assert not np.array_equal(kernel, np.asarray(model.get_layer("conv1").kernel))

    trainer.save_checkpoint(tmp_path / "c.keras")
    again = small_detector(seed=1)
    other = Trainer(again, replace(trainer_settings(config, again), lock_norms=True))
    other.restore(tmp_path / "c.keras")
    assert _equal(again.get_weights(), model.get_weights())

    trainer.save(tmp_path / "plain.keras")
    assert all(load(tmp_path / "plain.keras").get_layer(layer.name).trainable for layer in norms)
    trainer.detach()
    assert all(layer.trainable for layer in norms)


def test_masks_change_without_a_new_step(config: Config, records: list[Record]) -> None:
    trainer = make_trainer(small_detector(), config)
    train = trainer.dataset(records, augment=True)
    trainer.train_steps(train, 0, 1, 1e-3)
    masks = plan(trainer.model, 0.5)
    off = list(masks.channels["conv1"])  # and of conv2, which is tied to it
    trainer.held.hold(masks)
    trainer.train_steps(train, 1, 1, 1e-3)
    kernel = np.asarray(trainer.model.get_layer("conv2").kernel)
    assert not kernel[..., off].any()
    assert np.delete(kernel, off, axis=-1).all()
    assert trainer.traces == 1


def test_validation_names_its_terms(config: Config, records: list[Record]) -> None:
    trainer = make_trainer(small_detector(), config)
    terms = trainer.validate(trainer.dataset(records, augment=False))
    assert terms.keys() == {"loss", "boxes_loss", "scores_loss"}
    assert terms["loss"] == pytest.approx(terms["boxes_loss"] + terms["scores_loss"], rel=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_epoch_resumed_in_its_middle_ends_as_if_it_had_not_been(
    config: Config, records: list[Record], tmp_path: Path, optimizer: Literal["adamw", "muon"]
) -> None:
    """Optimiser, average, accumulated gradients and the epoch's means of the terms included."""
    config.TRAIN.optimizer = optimizer
    config.TRAIN.ema = 0.9
    config.TRAIN.accumulate = 2
    rates = LearningRates((1e-3, 1e-4), (2,))

    class Means(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            means.append(dict(logs or {}))

    means: list[dict[str, float]] = []
    whole = make_trainer(small_detector(), config)
    train = whole.dataset(records, augment=True)
    whole.fit(train, 2, [LearningRate(rates, 0, 3, 2), Means()])

    first = make_trainer(small_detector(), config)

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: object = None) -> None:
            if batch == 0:
                first.save_checkpoint(tmp_path / "c.keras")
                state.extend(first.running_metrics)
                raise KeyboardInterrupt

    class Resume(keras.callbacks.Callback):
        first_batch = 0

        def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
            if self.first_batch:
                second.running_metrics = state

    state: list[list[float]] = []
    with pytest.raises(KeyboardInterrupt):
        first.fit(first.dataset(records, augment=True), 2, [LearningRate(rates, 0, 3, 2), Stop()])
    second = make_trainer(small_detector(seed=1), config)
    second.restore(tmp_path / "c.keras")
    second.fit(
        second.dataset(records, augment=True), 2, [LearningRate(rates, 0, 3, 2), Resume(), Means()], first_batch=1
    )
    assert _equal(second.model.get_weights(), whole.model.get_weights())
    for ours, theirs in zip(second.model.optimizer.variables, whole.model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
    assert means[2:] == means[:2]


def test_averaged_weights_are_validated_and_saved_and_the_others_trained(
    config: Config, records: list[Record], tmp_path: Path
) -> None:
    config.TRAIN.ema = 0.9
    trainer = make_trainer(small_detector(), config)
    train = trainer.dataset(records, augment=True)
    kernel = trainer.model.get_layer("conv1").kernel
    untrained = np.asarray(kernel).copy()
    with trainer.averaged():  # what a stage that trains nothing saves
        np.testing.assert_array_equal(np.asarray(kernel), untrained)
    trainer.train_steps(train, 0, 1, 1e-2)
    expected = weights = np.asarray(kernel).copy()  # the average starts with the first update
    for step in (1, 2):
        trainer.train_steps(train, step, 1, 1e-2)
        weights = np.asarray(kernel).copy()
        expected = 0.9 * expected + 0.1 * weights
    with trainer.averaged():
        np.testing.assert_allclose(np.asarray(kernel), expected, rtol=1e-5)
        averaged_terms = trainer.training_model.evaluate(train, return_dict=True, verbose=0)
    np.testing.assert_array_equal(np.asarray(kernel), weights)
    assert trainer.validate(train) == averaged_terms
    trainer.save(tmp_path / "plain.keras")
    trainer.save_checkpoint(tmp_path / "c.keras")
    for name in ("plain", "c"):
        saved = load(tmp_path / f"{name}.keras").get_layer("conv1").kernel
        np.testing.assert_allclose(np.asarray(saved), expected, rtol=1e-5)

    trainer.restart_average()
    with trainer.averaged():
        np.testing.assert_array_equal(np.asarray(kernel), weights)


def test_what_is_masked_is_zero_in_the_average_too(config: Config, records: list[Record]) -> None:
    config.TRAIN.ema = 0.9
    trainer = make_trainer(small_detector(), config)
    train = trainer.dataset(records, augment=True)
    trainer.train_steps(train, 0, 2, 1e-2)
    masks = plan(trainer.model, 0.5)
    trainer.held.hold(masks)
    trainer.train_steps(train, 2, 2, 1e-2)
    with trainer.averaged():
        assert not np.asarray(trainer.model.get_layer("conv1").kernel)[..., list(masks.channels["conv1"])].any()


def test_the_group_sparsity_loss_joins_the_compiled_step(config: Config, records: list[Record]) -> None:
    config.TRAIN.pruned_alpha, config.TRAIN.pruned_ratio = 0.5, {"conv3*": 0.5, "*": 0.0}
    trainer = make_trainer(model := small_detector(), config)
    assert trainer.sparsity is not None
    data = trainer.dataset(records, augment=False)
    with_it = trainer.validate(data)
    step = model.test_function
    trainer.sparsity.alpha = 0.0
    without = trainer.validate(data)
    assert model.test_function is step
    terms = without["boxes_loss"] + without["scores_loss"]
    assert without["loss"] == pytest.approx(terms, rel=1e-5)
    assert with_it["loss"] > terms + 1e-3
    assert with_it["boxes_loss"] == pytest.approx(without["boxes_loss"], rel=1e-6)
