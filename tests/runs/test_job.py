"""The whole job in small: a detector whose step compiles in a second, 16 scenes, a few epochs; EResFD once."""

import json
import logging
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import lib.training.callbacks
import lib.training.trainer
from lib.config import Config, Stage
from lib.data.scenes import SampleSet
from lib.errors import ConfigError, DataError, ModelError, TrainingError
from lib.limits import Limits, limits
from lib.models import build, load, save
from lib.pruning import Masks, channel_sets
from lib.pruning.cost import count_macs, count_parameters
from lib.runs.folder import model_file
from lib.runs.job import run
from lib.search.tuner import as_environment
from tests.detectors import small_detector
from tests.networks import lively


@pytest.fixture
def config(samples: SampleSet, tmp_path: Path) -> Config:
    config = Config()
    config.DATA.train_txt_path, config.DATA.train_image_dir = str(samples.train_annotations), str(samples.train_images)
    config.DATA.val_txt_path, config.DATA.val_image_dir = str(samples.val_annotations), str(samples.val_images)
    config.DATA.hin = config.DATA.win = config.COST.hin = config.COST.win = 64
    config.MODEL.model_path = str(tmp_path / "run")
    config.MODEL.width_mult = 4 / 256
    config.TRAIN.batch_size = 4
    config.PRETRAIN.epoch = config.SOFT_PRUNE.epoch = config.FINETUNE.epoch = 2
    config.PRUNE.epoch_prune = 1
    config.PRUNE.rate = 0.5
    config.TRAIN.process_num = 1
    config.TEST.latency_rounds = 0
    return config


@pytest.fixture
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of EResFD a detector whose step compiles in a second; its channels are the parameter, or 4."""

    def build_small(*_: Any, **__: Any) -> keras.Model:
        return small_detector(getattr(request, "param", 4))

    monkeypatch.setattr("lib.runs.wiring.build", build_small)


def _masked(model: keras.Model, masks: Masks) -> np.ndarray:
    parts = []
    for item in channel_sets(model):
        off = list(masks.channels[item.name])
        parts += [np.asarray(model.get_layer(n).kernel)[..., off].ravel() for n in item.convolutions]
        for layer in (model.get_layer(n) for n in item.norms):
            parts += [np.asarray(layer.gamma)[off], np.asarray(layer.beta)[off]]
    return np.concatenate(parts)


OLD_ORDER: tuple[Stage, ...] = ("pretrain", "soft_prune", "finetune", "shrink", "evaluate")
REPAIR_ORDER: tuple[Stage, ...] = ("pretrain", "soft_prune", "shrink", "repair", "finetune", "evaluate")
NEW_ORDER: tuple[Stage, ...] = ("pretrain", "soft_prune", "shrink", "finetune", "evaluate")


@pytest.mark.usefixtures("small")
def test_all_stages_with_masks_held_through_fine_tuning(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    config.TRAIN.stages = OLD_ORDER
    with caplog.at_level(logging.INFO):
        results = run(config, verbose=0)
    folder = Path(config.MODEL.model_path)
    assert json.loads((folder / "results.json").read_text()) == results
    assert [row["stage"] for row in results["stages"]] == ["pretrain", "soft_prune", "finetune", "shrunk"]
    before, soft, fine, shrunk = results["stages"]
    assert before["zero_share"] < 0.01 < 0.3 < soft["zero_share"] == fine["zero_share"]
    assert all(0 <= row["ap"] <= 1 for row in results["stages"])
    assert before["parameters"] == fine["parameters"]
    assert before["macs"] == fine["macs"] > 0
    assert "16 training and 6 validation images" in results["data"]
    assert sorted(p.name for p in folder.glob("epoch_*.keras")) == [f"epoch_{n}.keras" for n in range(1, 7)]
    assert sorted(p.name for p in (folder / "optimized").iterdir()) == [
        "finetune.keras", "pretrain.keras", "shrunk.keras", "soft_prune.keras",
    ]  # fmt: skip
    small = load(folder / "optimized" / "shrunk.keras")
    assert shrunk["zero_share"] < 0.01
    assert shrunk["ap"] == pytest.approx(fine["ap"], abs=1e-3)
    assert count_parameters(small) == shrunk["parameters"] < 0.8 * fine["parameters"]
    assert count_macs(small, 64, 64) == shrunk["macs"] < 0.8 * fine["macs"]
    assert shrunk["keras_bytes"] < fine["keras_bytes"]
    assert results["removal"]["of"] == "finetune"
    before_training = caplog.text[: caplog.text.index("stage pretrain")]
    (row,) = [line for line in before_training.splitlines() if line.startswith("| sum")]
    assert f" {fine['parameters']:,} | {shrunk['parameters']:,} | " in re.sub(" +", " ", row)

    assert not (folder / "samples.png").exists()

    masks = Masks.from_dict(json.loads((folder / "masks.json").read_text()))
    for stage in ("soft_prune", "finetune"):
        values = _masked(load(folder / "optimized" / f"{stage}.keras"), masks)
        assert values.size > 0
        assert not values.any()

    modified = {path: path.stat().st_mtime_ns for path in folder.glob("*.keras")}
    page = (folder / "report.html").stat().st_mtime_ns
    assert run(config, verbose=0) == results  # a finished run is not run again
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*.keras")} == modified
    assert (folder / "report.html").stat().st_mtime_ns == page  # nor looked at
    (folder / "results.json").write_text("{}")
    assert run(config, verbose=0) == results
    assert (folder / "report.html").stat().st_mtime_ns > page


@pytest.mark.usefixtures("small")
def test_what_is_pruned_is_taken_out_before_fine_tuning(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[tuple[int, int]] = []
    original = lib.training.trainer.Trainer.fit

    def fit(self: Any, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        trained.append((count_parameters(self.model), self.traces))

    monkeypatch.setattr("lib.training.trainer.Trainer.fit", fit)
    results = run(config)
    assert config.TRAIN.stages == NEW_ORDER
    before, soft, shrunk, fine = results["stages"]
    assert [row["stage"] for row in results["stages"]] == ["pretrain", "soft_prune", "shrunk", "finetune"]
    assert results["removal"]["of"] == "soft_prune"
    assert shrunk["parameters"] == fine["parameters"] < 0.8 * soft["parameters"]
    assert shrunk["macs"] == fine["macs"] < soft["macs"] == before["macs"]
    assert shrunk["ap"] == pytest.approx(soft["ap"], abs=1e-3)
    # One compiled step for the whole model, another for the small one.
    assert trained == [(before["parameters"], 1), (before["parameters"], 1), (fine["parameters"], 1)]
    folder = Path(config.MODEL.model_path)
    assert model_file(folder) == folder / "optimized" / "finetune.keras"
    lines = (folder / "history.csv").read_text().splitlines()
    assert [line.split(",")[1] for line in lines[1:]] == [*["pretrain"] * 2, *["soft_prune"] * 2, *["finetune"] * 2]


class _Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_a_run_killed_in_every_stage_ends_as_if_it_had_not_been(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.TRAIN.stages, config.PRUNE.repair_images = REPAIR_ORDER, 2
    whole = run(config, verbose=0)
    assert "repair" in whole
    original = lib.training.callbacks.Checkpoint.on_epoch_end
    first = Path(config.MODEL.model_path)
    config.MODEL.model_path = str(tmp_path / "killed")
    for fatal_epoch in (1, 3, 5):

        def dying(self: Any, epoch: int, logs: Any = None, fatal: int = fatal_epoch) -> None:
            original(self, epoch, logs)
            if epoch + 1 == fatal:
                raise _Killed

        with monkeypatch.context() as patch:
            patch.setattr(lib.training.callbacks.Checkpoint, "on_epoch_end", dying)
            with pytest.raises(_Killed):
                run(config, verbose=0)
    assert run(config, verbose=0) == whole
    for stage in ("pretrain", "soft_prune", "shrunk", "finetune"):
        ours, theirs = (load(folder / "optimized" / f"{stage}.keras") for folder in (first, tmp_path / "killed"))
        for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_loaded_model_takes_pretrainings_place_and_stages_can_be_added(
    config: Config, tmp_path: Path, rng: np.random.Generator
) -> None:
    model = lively(small_detector(), rng, 64)
    save(model, tmp_path / "m.keras")
    config.MODEL.pretrained_model = str(tmp_path / "m.keras")
    config.TRAIN.stages = ("pretrain",)
    (row,) = run(config, verbose=0)["stages"]
    assert row["stage"] == "imported"
    assert row["ap"] is None
    imported = load(Path(config.MODEL.model_path) / "optimized" / "imported.keras")
    for a, b in zip(imported.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    config.TRAIN.stages = ("evaluate",)
    (measured,) = run(config, verbose=0)["stages"]
    assert 0 <= measured["ap"] <= 1
    assert {**measured, "ap": None} == row


def test_faults_are_found_before_any_training(config: Config, tmp_path: Path) -> None:
    def fails(error: type[Exception], match: str) -> None:
        with pytest.raises(error, match=match):
            run(config, verbose=0)
        assert not Path(config.MODEL.model_path).exists()

    config.PRUNE.rate = {"nothing*": 0.3}
    fails(ConfigError, "nothing")
    config.PRUNE.rate = 0.5
    config.TRAIN.pruned_alpha, config.TRAIN.pruned_ratio = 0.1, [0.5] * 19
    fails(ConfigError, "lists 19 ratios, but the model has 55 endpoints: conv2, ")
    config.TRAIN.pruned_alpha = 0.0
    config.MODEL.pretrained_model = str(tmp_path / "absent.keras")
    fails(ModelError, "no such file")
    image = keras.Input((8, 8, 3))
    save(keras.Model(image, keras.layers.Conv2D(2, 1)(image)), tmp_path / "other.keras")
    config.MODEL.pretrained_model = str(tmp_path / "other.keras")
    fails(ModelError, "no face detector")
    config.MODEL.pretrained_model = ""
    config.DATA.train_txt_path = str(tmp_path / "absent.txt")
    fails(DataError, "no such annotation file")


@pytest.mark.usefixtures("small")
def test_limits_hold_in_the_threads_that_read_and_end_with_the_run(config: Config) -> None:
    config.LIMITS.max_pixels = 1000
    with pytest.raises(DataError, match=r"at most 1,000 pixels are read: .* raise LIMITS\.max_pixels in the config"):
        run(config, verbose=0)
    assert limits() == Limits()


@pytest.mark.usefixtures("small")
def test_the_message_when_memory_runs_out_names_the_batch_size(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("lib.training.trainer.Trainer.fit", exhausted)
    with pytest.raises(TrainingError, match=r"lower TRAIN\.batch_size \(now 4\)"):
        run(config, verbose=0)


def test_build_of_the_configs_model_is_seeded() -> None:
    keras.utils.set_random_seed(0)
    first = build("eresfd", width_mult=4 / 256).get_weights()
    keras.utils.set_random_seed(0)
    for a, b in zip(first, build("eresfd", width_mult=4 / 256).get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_picture_of_samples_on_demand(config: Config, tmp_path: Path) -> None:
    save(small_detector(), tmp_path / "tiny.keras")
    config.MODEL.pretrained_model = str(tmp_path / "tiny.keras")
    config.TRAIN.stages = ("finetune",)
    config.FINETUNE.epoch = 1
    config.TRAIN.vis = True
    seen: list[bool] = []

    def fit(*_: Any, **__: Any) -> None:
        seen.append((Path(config.MODEL.model_path) / "samples.png").is_file())
        raise _Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lib.training.trainer.Trainer.fit", fit)
        with pytest.raises(_Killed):
            run(config, verbose=0)
    assert seen == [True]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("small", [16], indirect=True)
def test_searched_rates_are_pruned(config: Config) -> None:
    config.TRAIN.stages = ("pretrain", "soft_prune", "finetune", "shrink")
    config.PRETRAIN.epoch = config.SOFT_PRUNE.epoch = config.FINETUNE.epoch = 1
    config.SEARCH.enabled = True
    config.SEARCH.groups = {"fine": ["conv1"], "coarse": ["conv3"]}
    config.SEARCH.target, config.SEARCH.tolerance = 0.6, 0.03
    config.SEARCH.n_init_points, config.SEARCH.n_opt_iterations = 2, 0
    config.SEARCH.steps, config.SEARCH.recalibration_batches = 1, 0
    results = run(config, verbose=0)
    (found,) = results["search"]
    folder = Path(config.MODEL.model_path)
    assert model_file(folder) == folder / "optimized" / "shrunk.keras"
    assert results["stages"][-1]["macs"] < results["stages"][-2]["macs"]
    assert found["rate"] == json.loads((folder / "rates_0.6.json").read_text())["rate"]
    masks = Masks.from_dict(json.loads((folder / "masks.json").read_text()))
    rates = json.loads((folder / "rates_0.6.json").read_text())["rate"]
    for item in channel_sets(load(folder / "optimized" / "finetune.keras")):
        assert len(masks.channels[item.name]) == round(rates.get(item.name, 0) * item.size)
    assert (folder / "search_progress.png").is_file()
    assert len((folder / "search.csv").read_text().splitlines()) == 4
    before = (folder / "search.csv").stat().st_mtime_ns
    run(config, verbose=0)
    assert (folder / "search.csv").stat().st_mtime_ns == before, "a finished search is not taken up again"


@pytest.mark.usefixtures("small")
def test_a_budget_that_cannot_be_met_is_found_before_the_run_folder_is_made(config: Config) -> None:
    config.SEARCH.enabled, config.SEARCH.target, config.SEARCH.groups = True, 0.0001, {"all": ["conv*"]}
    with pytest.raises(ConfigError, match=r"SEARCH\.target = 0\.0001 cannot be reached"):
        run(config, verbose=0)
    assert not Path(config.MODEL.model_path).exists()


@pytest.mark.usefixtures("small")
def test_many_machines_need_one_start(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    config.SEARCH.enabled, config.SEARCH.groups = True, {"all": ["conv*"]}
    config.SEARCH.target, config.SEARCH.tolerance = 0.6, 0.03
    for name, value in as_environment("worker1", "127.0.0.1", 9).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"starts from MODEL\.pretrained_model, the same in every process"):
        run(config, verbose=0)
