"""Pruning in steps: what each leaves, and that a run killed between or in them ends with the same bits."""

from collections.abc import Iterator
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
from tests.detectors import small_detector


@pytest.fixture(autouse=True, scope="module")
def _fast() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lib.runs.stages.removal.COMPARED_IMAGES", 1)
        patch.setattr("lib.runs.removal.RANDOM_IMAGES", 1)
        patch.setattr("lib.runs.stages.removal.repair", partial(repair, positions_per_layer=1000))
        yield


def _config(samples: SampleSet, folder: Path) -> Config:
    save(small_detector(8), folder / "start.keras")
    config = Config()
    config.DATA.train_txt_path, config.DATA.train_image_dir = str(samples.train_annotations), str(samples.train_images)
    config.DATA.val_txt_path, config.DATA.val_image_dir = str(samples.val_annotations), str(samples.val_images)
    config.DATA.hin = config.DATA.win = config.COST.hin = config.COST.win = 64
    config.MODEL.pretrained_model = str(folder / "start.keras")
    config.MODEL.model_path = str(folder / "run")
    config.TRAIN.stages = ("pretrain", "shrink", "repair", "finetune")
    config.TRAIN.batch_size = 4
    config.FINETUNE.epoch = 1
    config.PRUNE.rate, config.PRUNE.steps, config.PRUNE.step_epoch, config.PRUNE.repair_images = 0.5, 2, 1, 2
    config.TRAIN.process_num = 1
    return config


@pytest.fixture
def config(samples: SampleSet, tmp_path: Path) -> Config:
    return _config(samples, tmp_path)


@pytest.fixture(scope="module")
def undisturbed(samples: SampleSet, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder and the results of a run that nothing stops."""
    config = _config(samples, tmp_path_factory.mktemp("undisturbed"))
    results = run(config)
    return Path(config.MODEL.model_path) / "optimized", results


def test_each_step_takes_as_much_and_is_trained(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    folder, results = undisturbed
    rows = {row["stage"]: row["parameters"] for row in results["stages"]}
    assert list(rows) == ["imported", "step_1", "step_1_trained", "shrunk", "repaired", "finetune"]
    assert rows["imported"] > rows["step_1"] == rows["step_1_trained"] > rows["shrunk"] == rows["finetune"]
    assert results["removal"]["of"] == "step_1_trained"
    kept = [load(folder / f"{name}.keras").get_layer("conv2").filters for name in ("imported", "step_1", "shrunk")]
    assert kept == [8, 6, 4]


def test_killed_in_every_step_it_goes_on_and_ends_the_same(
    config: Config, undisturbed: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    optimized = Path(config.MODEL.model_path) / "optimized"
    for where, left in (
        ("Gradual.take_best", ["imported", "step_1"]),  # the first step's epoch is over, its model not yet left
        ("take_out", ["imported", "step_1", "step_1_trained"]),  # the second begins
    ):
        with monkeypatch.context() as broken:
            broken.setattr(f"lib.runs.stages.gradual.{where}", die)
            with pytest.raises(KeyboardInterrupt):
                run(config)
        assert sorted(file.stem for file in optimized.iterdir()) == left
        keras.backend.clear_session()
    run(config)
    folders = (undisturbed[0], optimized)
    for one, other in zip(*(load(folder / "finetune.keras").weights for folder in folders), strict=True):
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
