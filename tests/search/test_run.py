import logging
from pathlib import Path

import keras
import numpy as np
import pytest

from lib.config import Config
from lib.data.annotations import Record, read_annotations
from lib.data.scenes import SampleSet
from lib.errors import ConfigError, DataError
from lib.pruning import plan
from lib.runs.wiring import make_trainer, search_settings
from lib.search.run import Search, _split, check_search, rates_file, search_space
from lib.search.trial_table import read_rates, read_table
from tests.detectors import small_detector


@pytest.fixture(scope="module")
def records(samples: SampleSet) -> list[Record]:
    return read_annotations(samples.train_annotations, samples.train_images)


def _config() -> Config:
    config = Config()
    config.SEARCH.enabled = True
    config.DATA.hin = config.DATA.win = 64
    config.TRAIN.batch_size = 4
    config.SEARCH.target = [0.7, 0.5]
    config.SEARCH.tolerance = 0.02
    config.SEARCH.n_init_points, config.SEARCH.n_opt_iterations = 2, 2
    config.SEARCH.steps, config.SEARCH.recalibration_batches = 2, 1
    return config


def test_a_search_from_end_to_end(
    records: list[Record], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config()
    config.SEARCH.groups = {"fine": ["conv1"], "coarse": ["conv3"]}
    trainer = make_trainer(small_detector(16), config)
    before = trainer.model.get_weights()
    with caplog.at_level(logging.INFO):
        found = Search(search_settings(config), trainer, records, tmp_path).run()
    assert "trial 6 of 6 (guided)" in caplog.text
    for a, b in zip(before, trainer.model.get_weights(), strict=True):
        assert np.array_equal(a, b)
    assert list(found) == [0.7, 0.5]
    names, rows = read_table(tmp_path / "search.csv")
    assert names == ["fine", "coarse"]
    assert len(rows) == 6
    _, space = search_space(search_settings(config), trainer.model, tmp_path)
    for target, best in found.items():
        own = [row for row in rows if abs(row["budget_ratio"] - target) <= 0.02]
        assert len(own) == 3
        assert best.val_loss == min(row["val_loss"] for row in own)
        rates = read_rates(rates_file(tmp_path, target))
        masks = plan(trainer.model, rates)
        assert [
            size - len(masks.channels[name]) for name, size in zip(space.set_names, space.sizes, strict=True)
        ] == list(best.proposal.kept)

    again = Search(search_settings(config), trainer, records, tmp_path)
    monkeypatch.setattr(type(again.trials), "__call__", lambda *_: pytest.fail("a finished search runs again"))
    assert again.run() == found


def test_the_held_out_images_are_a_share_of_the_training_images(records: list[Record]) -> None:
    to_train, to_judge = _split(records, 0.25, seed=3)
    assert len(to_judge) == len(records) // 4
    assert sorted(record.name for record in [*to_train, *to_judge]) == sorted(record.name for record in records)
    assert [record.name for record in _split(records, 0.25, seed=4)[1]] != [record.name for record in to_judge]
    with pytest.raises(DataError, match=r"SEARCH.holdout = 0.01 of 16 training images leaves no faces"):
        _split(records, 0.01, 0)


def test_unfit_settings_are_found_before_any_training(tiny_model: keras.Model) -> None:
    config = _config()
    config.SEARCH.target = 0.001
    with pytest.raises(ConfigError, match=r"SEARCH.target = 0.001 cannot be reached"):
        check_search(search_settings(config), tiny_model)
    config.SEARCH.target = 0.5
    config.SEARCH.groups = {"stem": ["conv*"]}
    with pytest.raises(ConfigError, match="in no group: stage1"):
        check_search(search_settings(config), tiny_model)
    config.PRUNE.mode, config.SEARCH.groups = "per_layer", "eresfd_4"
    with pytest.raises(ConfigError, match="masks by layer cannot be removed"):
        check_search(search_settings(config), tiny_model)
    config.SEARCH.budget = "zeroed"
    config.SEARCH.tolerance = 0.03
    check_search(search_settings(config), tiny_model)
    config.PRUNE.mode, config.SEARCH.budget, config.SEARCH.groups = "removable", "latency", {"stem": ["conv*"]}
    with pytest.raises(ConfigError, match="in no group: stage1"):
        check_search(search_settings(config), tiny_model)
