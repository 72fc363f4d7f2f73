"""Every choice of stages that makes sense is run, in small; the others are refused with the reason."""

import itertools
import json
from pathlib import Path
from typing import Any, cast

import pytest

from lib.config import STAGES, Config, Stage
from lib.data.scenes import SampleSet
from lib.errors import ConfigError, TrainingError
from lib.models import load, save
from lib.pruning.cost import count_parameters
from lib.runs.job import run
from tests.detectors import small_detector

Names = tuple[str, ...]


def _choices() -> list[Names]:
    """All that make sense: repair mends what shrink leaves; shrink may also come right behind finetune.

    The model is loaded here, so that "pretrain" changes nothing: every second choice has it. "evaluate" is added to
    each afterwards.
    """
    others = [name for name in STAGES if name not in ("pretrain", "evaluate")]
    found: list[Names] = []
    for count in range(len(others) + 1):
        for names in itertools.combinations(others, count):
            if "repair" in names and "shrink" not in names:
                continue
            found.append(names)
            if {"shrink", "finetune"} <= set(names) and "repair" not in names:
                found.append(tuple({"shrink": "finetune", "finetune": "shrink"}.get(name, name) for name in names))
    return [("pretrain", *names) if index % 2 else names for index, names in enumerate(found)]


@pytest.fixture
def config(samples: SampleSet, tmp_path: Path) -> Config:
    config = Config()
    config.DATA.train_txt_path, config.DATA.train_image_dir = str(samples.train_annotations), str(samples.train_images)
    config.DATA.val_txt_path, config.DATA.val_image_dir = str(samples.val_annotations), str(samples.val_images)
    config.DATA.hin = config.DATA.win = 64
    config.MODEL.model_path = str(tmp_path / "run")
    save(small_detector(), tmp_path / "small.keras")
    config.MODEL.pretrained_model = str(tmp_path / "small.keras")
    config.TRAIN.batch_size, config.TRAIN.train_set_size, config.TRAIN.val_set_size = 4, 8, 2
    config.SOFT_PRUNE.epoch = config.FINETUNE.epoch = config.PRUNE.epoch_prune = 1
    config.PRUNE.rate, config.PRUNE.repair_images = 0.5, 2
    config.TRAIN.process_num = 1
    config.TEST.latency_rounds = 0
    config.SEARCH.groups = {"all": ["conv*"]}
    config.SEARCH.target, config.SEARCH.tolerance = 0.6, 0.03
    config.SEARCH.n_init_points, config.SEARCH.n_opt_iterations = 1, 0
    config.SEARCH.steps, config.SEARCH.recalibration_batches = 1, 0
    return config


@pytest.mark.slow
@pytest.mark.parametrize("names", _choices(), ids=" ".join)
def test_every_sensible_choice_runs(config: Config, names: Names) -> None:
    folder = Path(config.MODEL.model_path)

    def rows_of(stages: Names) -> list[dict[str, Any]]:
        config.TRAIN.stages = cast(tuple[Stage, ...], stages)
        results: dict[str, Any] = run(config)
        assert json.loads((folder / "results.json").read_text()) == results
        assert bool(results.get("search")) == ("search" in names)
        assert (results.get("removal") is not None) == ("shrink" in names)
        return results["stages"]

    before = rows_of(names) if names else None
    rows = rows_of((*names, "evaluate"))
    kept = {"soft_prune": "soft_prune", "shrink": "shrunk", "repair": "repaired", "finetune": "finetune"}
    assert [row["stage"] for row in rows] == ["imported", *(kept[name] for name in names if name in kept)]
    assert all(0 <= row["ap"] <= 1 for row in rows)
    assert before is None or before == [{**row, "ap": None} for row in rows]
    last = load(folder / "optimized" / f"{rows[-1]['stage']}.keras")
    smaller = count_parameters(last) < count_parameters(small_detector())
    assert smaller == ("shrink" in names), "channels go in shrink, and only there"


@pytest.mark.parametrize(
    "names",
    [
        ("evaluate", "shrink"),
        ("repair", "shrink"),
        ("finetune", "soft_prune"),
        ("shrink", "soft_prune", "finetune"),
        ("search", "search"),
    ],
    ids=" ".join,
)
def test_a_senseless_choice_is_refused_with_the_reason(names: Names) -> None:
    config = Config()
    config.TRAIN.stages = cast(tuple[Stage, ...], names)
    with pytest.raises(ConfigError, match=r"in this order and each once, got"):
        config.check()


def test_a_repair_needs_a_removal(config: Config) -> None:
    config.TRAIN.stages = ("pretrain", "repair")
    with pytest.raises(TrainingError, match="the stage 'repair' needs removal of an earlier stage"):
        run(config)
