from pathlib import Path

import keras
import numpy as np
import pytest

from lib.callbacks import PiecewiseRate
from lib.config import Config
from lib.data.samples import SampleSet
from lib.data.wider import Record, read_annotations
from lib.errors import ModelError
from lib.losses import BoxLoss, ScoreLoss
from lib.models import build, load
from lib.pruning import plan
from lib.trainer import Trainer, losses_of


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


def test_steps_and_epochs_train_alike_and_nothing_is_compiled_twice(
    tiny_model: keras.Model, config: Config, records: list[Record]
) -> None:
    trainer = Trainer(tiny_model, config)
    start = tiny_model.get_weights()
    train = trainer.dataset(records, augment=True)
    trainer.fit(train, 2, [PiecewiseRate((1e-3,), (), 0, 3)])
    by_epochs = tiny_model.get_weights()
    step = tiny_model.train_function

    trainer.set_weights(start)
    trainer.reset_optimizer()
    trainer.train_steps(train, 0, 2, 1e-3)
    trainer.train_steps(train, 2, 4, 1e-3)  # over the epoch's end
    assert not _equal(by_epochs, start)
    assert _equal(tiny_model.get_weights(), by_epochs)
    assert tiny_model.train_function is step


def test_a_checkpoint_brings_back_weights_and_momenta(
    tiny_model: keras.Model, config: Config, records: list[Record], tmp_path: Path
) -> None:
    trainer = Trainer(tiny_model, config)
    train = trainer.dataset(records, augment=True)
    trainer.train_steps(train, 0, 2, 1e-3)
    tiny_model.save(tmp_path / "c.keras")
    trainer.train_steps(train, 2, 3, 1e-3)
    expected = tiny_model.get_weights()

    again = Trainer(build("eresfd", width_mult=4 / 256), config)
    again.restore(tmp_path / "c.keras")
    again.train_steps(train, 2, 3, 1e-3)
    assert _equal(again.model.get_weights(), expected)

    again.save(tmp_path / "plain.keras")
    assert load(tmp_path / "plain.keras").optimizer is None
    with pytest.raises(ModelError, match="not a checkpoint of this detector and optimiser"):
        again.restore(tmp_path / "plain.keras")


def test_masks_change_without_a_new_step(tiny_model: keras.Model, config: Config, records: list[Record]) -> None:
    trainer = Trainer(tiny_model, config)
    train = trainer.dataset(records, augment=True)
    trainer.train_steps(train, 0, 1, 1e-3)
    step = tiny_model.train_function
    masks = plan(tiny_model, 0.5)
    off = list(masks.channels["conv2"])
    trainer.held.hold(masks)
    trainer.train_steps(train, 1, 1, 1e-3)
    kernel = np.asarray(tiny_model.get_layer("conv2").kernel)
    assert not kernel[..., off].any()
    assert np.delete(kernel, off, axis=-1).all()
    assert tiny_model.train_function is step


def test_validation_names_its_terms(tiny_model: keras.Model, config: Config, records: list[Record]) -> None:
    trainer = Trainer(tiny_model, config)
    terms = trainer.validate(trainer.dataset(records, augment=False))
    assert terms.keys() == {"loss", "boxes_loss", "scores_loss"}
    assert terms["loss"] == pytest.approx(terms["boxes_loss"] + terms["scores_loss"], rel=1e-5)


def test_every_output_finds_its_loss(config: Config) -> None:
    image = keras.Input((8,))

    def model(*names: str) -> keras.Model:
        return keras.Model(image, {name: keras.layers.Dense(2, name=name)(image) for name in names})

    losses = losses_of(model("boxes", "scores", "first_boxes", "first_scores"), config)
    assert {name: type(loss) for name, loss in losses.items()} == {
        "boxes": BoxLoss, "scores": ScoreLoss, "first_boxes": BoxLoss, "first_scores": ScoreLoss,
    }  # fmt: skip
    with pytest.raises(ModelError, match=r"no loss is known for the output 'age'"):
        losses_of(model("boxes", "age"), config)


def test_the_group_sparsity_loss_joins_the_compiled_step(
    tiny_model: keras.Model, config: Config, records: list[Record]
) -> None:
    config.TRAIN.pruned_alpha, config.TRAIN.pruned_ratio = 0.5, {"context*": 0.5, "*": 0.0}
    trainer = Trainer(tiny_model, config)
    assert trainer.sparsity is not None
    data = trainer.dataset(records, augment=False)
    with_it = trainer.validate(data)
    step = tiny_model.test_function
    trainer.sparsity.alpha = 0.0
    without = trainer.validate(data)
    assert tiny_model.test_function is step
    terms = without["boxes_loss"] + without["scores_loss"]
    assert without["loss"] == pytest.approx(terms, rel=1e-5)
    assert with_it["loss"] > terms + 1e-3
    assert with_it["boxes_loss"] == pytest.approx(without["boxes_loss"], rel=1e-6)
