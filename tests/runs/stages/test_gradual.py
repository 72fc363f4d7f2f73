"""Pruning in steps: what each leaves, and that a run killed between or in them ends with the same bits."""

from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from lib.config import Config
from lib.data.scenes import SampleSet
from lib.errors import ConfigError
from lib.models import load, save
from lib.pruning import repair
from lib.runs.job import run
from lib.runs.stages.gradual import Gradual
from lib.runs.stages.removal import take_out
from tests.detectors import small_detector


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib.runs.stages.removal.COMPARED_IMAGES", 1)
    monkeypatch.setattr("lib.runs.removal.RANDOM_IMAGES", 1)
    monkeypatch.setattr("lib.runs.stages.removal.repair", partial(repair, positions_per_layer=1000))


@pytest.fixture
def config(samples: SampleSet, tmp_path: Path) -> Config:
    save(small_detector(8), tmp_path / "start.keras")
    config = Config()
    config.DATA.train_txt_path, config.DATA.train_image_dir = str(samples.train_annotations), str(samples.train_images)
    config.DATA.val_txt_path, config.DATA.val_image_dir = str(samples.val_annotations), str(samples.val_images)
    config.DATA.hin = config.DATA.win = config.COST.hin = config.COST.win = 64
    config.MODEL.pretrained_model = str(tmp_path / "start.keras")
    config.MODEL.model_path = str(tmp_path / "run")
    config.TRAIN.stages = ("pretrain", "shrink", "repair", "finetune")
    config.TRAIN.batch_size = 4
    config.FINETUNE.epoch = 1
    config.PRUNE.rate, config.PRUNE.steps, config.PRUNE.step_epoch, config.PRUNE.repair_images = 0.5, 2, 1, 2
    config.TRAIN.process_num = 1
    return config


def _weights(config: Config) -> list[np.ndarray]:
    return [np.asarray(w) for w in load(Path(config.MODEL.model_path) / "optimized" / "finetune.keras").weights]


def test_each_step_takes_as_much_and_is_trained(config: Config) -> None:
    results = run(config)
    rows = {row["stage"]: row["parameters"] for row in results["stages"]}
    assert list(rows) == ["imported", "step_1", "step_1_trained", "shrunk", "repaired", "finetune"]
    assert rows["imported"] > rows["step_1"] == rows["step_1_trained"] > rows["shrunk"] == rows["finetune"]
    assert results["removal"]["of"] == "step_1_trained"
    folder = Path(config.MODEL.model_path) / "optimized"
    kept = [load(folder / f"{name}.keras").get_layer("conv2").filters for name in ("imported", "step_1", "shrunk")]
    assert kept == [8, 6, 4]


@pytest.mark.parametrize("where", ["take_out", "learn"])
def test_killed_in_a_step_it_goes_on_and_ends_the_same(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    run(config)
    undisturbed = _weights(config)
    config.MODEL.model_path = str(tmp_path / "killed")
    with monkeypatch.context() as broken:
        if where == "take_out":
            times = iter([False, True])  # in the second step, after the first has been trained
            whole = take_out

            def die(*given: Any) -> Any:
                if next(times):
                    raise KeyboardInterrupt
                return whole(*given)

            broken.setattr("lib.runs.stages.gradual.take_out", die)
        else:

            def stop(*_: Any) -> None:
                raise KeyboardInterrupt

            broken.setattr(Gradual, "take_best", stop)  # its epoch is over, its model not yet left
        with pytest.raises(KeyboardInterrupt):
            run(config)
    keras.backend.clear_session()
    run(config)
    for one, other in zip(undisturbed, _weights(config), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("TRAIN.stages=pretrain,soft_prune,shrink,finetune", "in the place of soft pruning"),
        ("TRAIN.stages=pretrain,finetune,shrink", "in the place of soft pruning"),
        ("TRAIN.stages=pretrain,shrink,finetune", "add it behind 'shrink'"),
        ("PRUNE.min_channels=0", "min_channels of at least 1"),
    ],
)
def test_what_does_not_go_with_steps_is_said_before_work(config: Config, setting: str, message: str) -> None:
    config.override(setting)
    with pytest.raises(ConfigError, match=message):
        config.check()
        run(config)
    assert not Path(config.MODEL.model_path).exists()
