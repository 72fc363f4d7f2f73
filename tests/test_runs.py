from pathlib import Path

import pytest

from lib.config import Config
from lib.errors import TrainingError
from lib.files import read_json
from lib.runs import RunFolder


def test_a_new_folder_holds_settings_versions_and_commit(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run").open(Config())
    content = read_json(tmp_path / "run" / "config.json")
    assert content["config"] == Config().model_dump(mode="json")
    assert {"python", "keras", "numpy"} <= content["versions"].keys()
    assert "commit" in content


def test_state_comes_back(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.open(Config())
    folder.state["stages"].append({"stage": "pretrain"})
    folder.save_state()
    again = RunFolder(tmp_path / "run")
    again.open(Config())
    assert again.state == folder.state


def test_other_settings_are_refused_with_the_difference(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run").open(Config())
    config = Config()
    config.TRAIN.epoch = 7
    with pytest.raises(TrainingError) as error:
        RunFolder(tmp_path / "run").open(config)
    message = str(error.value)
    assert "- TRAIN.epoch = 30" in message
    assert "+ TRAIN.epoch = 7" in message
    assert "--fresh" in message
    assert "batch_size" not in message


def test_settings_that_change_no_result_may_change(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run").open(Config())
    config = Config()
    config.TRAIN.process_num = 5
    config.TRAIN.stages = ("pretrain",)
    RunFolder(tmp_path / "run").open(config)


def test_fresh_keeps_the_earlier_runs_aside(tmp_path: Path) -> None:
    for _ in range(3):
        RunFolder(tmp_path / "run").open(Config(), fresh=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.1", "run.2"]


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(TrainingError, match="choose another"):
        RunFolder(tmp_path).open(Config())
