from pathlib import Path

import keras
import numpy as np

from lib.config import Config
from lib.data.sources import FaceData
from lib.files import write_json
from lib.models import load
from lib.pruning import Masks, plan, shrink
from lib.runs.wiring import workbench
from lib.runs.workbench import Workbench
from tests.detectors import small_detector


def _bench(folder: Path, model: keras.Model, **train: float) -> Workbench:
    config = Config()
    config.DATA.hin = config.DATA.win = 64
    config.MODEL.model_path = str(folder)
    config.PRUNE.rate = 0.5
    for name, value in train.items():
        setattr(config.TRAIN, name, value)
    return workbench(config, model, FaceData([], [], ""))


def test_one_trainer_until_channels_are_gone(tmp_path: Path) -> None:
    start = small_detector()
    bench = _bench(tmp_path, start, pruned_alpha=0.1)
    trainer = bench.trainer()
    assert trainer.model is start
    assert trainer.sparsity is not None
    bench.leave("pretrain", trainer)
    start.get_layer("conv1").kernel.assign(np.zeros(start.get_layer("conv1").kernel.shape))
    assert bench.trainer() is trainer
    assert np.asarray(start.get_layer("conv1").kernel).any(), "the latest model's weights are taken"

    small = shrink(bench.model(), plan(bench.model(), 0.5))
    bench.leave("shrunk", small)
    other = bench.trainer()
    assert other is not trainer
    assert other.sparsity is None
    assert other.model.count_params() < start.count_params()
    for a, b in zip(
        other.model.get_weights(), load(tmp_path / "optimized" / "shrunk.keras").get_weights(), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert bench.trainer() is other


def test_norms_are_locked_for_one_stage(tmp_path: Path) -> None:
    start = small_detector()
    bench = _bench(tmp_path, start, pruned_alpha=0.1)
    trainer, norm = bench.trainer(), start.get_layer("conv1_bn")
    locked = bench.trainer(lock_norms=True)
    assert locked is not trainer
    assert locked is bench.trainer(lock_norms=True)
    assert not norm.trainable
    assert bench.trainer().settings == trainer.settings
    assert norm.trainable


def test_masks_on_file_go_before_new_ones(tmp_path: Path) -> None:
    model = small_detector()
    bench = _bench(tmp_path, model)
    chosen = bench.masks(model)
    assert chosen == plan(model, 0.5)
    others = Masks("removable", dict.fromkeys(chosen.channels, ()))
    bench.keep_masks(others)
    assert bench.masks(model) == others


def test_rates_that_were_found_go_before_those_of_the_settings(tmp_path: Path) -> None:
    bench = _bench(tmp_path, small_detector())
    before = bench.rates
    assert before == 0.5
    write_json(tmp_path / "rates_0.4.json", {"rate": {"conv1": 0.25}})
    bench.folder.state.rates = "rates_0.4.json"
    assert bench.rates == {"conv1": 0.25}
