from pathlib import Path

import pytest

from lib.errors import ModelError
from lib.files import write_json
from lib.runs import RunFolder, model_file


def run_folder(path: Path, finished: list[str], files: list[str]) -> Path:
    write_json(path / "state.json", {"stages": [{"stage": stage} for stage in finished]})
    for stage in files:
        outcome = RunFolder(path).outcome(stage)
        outcome.parent.mkdir(exist_ok=True)
        outcome.touch()
    return path


@pytest.mark.parametrize(
    ("finished", "expected"),
    [
        (["pretrain"], "pretrain"),
        (["pretrain", "soft_prune"], "soft_prune"),
        (["pretrain", "finetune"], "finetune"),
        (["imported", "soft_prune", "finetune"], "finetune"),
    ],
)
def test_run_folder_means_its_last_model(tmp_path: Path, finished: list[str], expected: str) -> None:
    run = run_folder(tmp_path / "run", finished, finished)
    assert model_file(run) == run / "optimized" / f"{expected}.keras"


def test_file_means_itself(tmp_path: Path) -> None:
    (tmp_path / "model.keras").touch()
    assert model_file(tmp_path / "model.keras") == tmp_path / "model.keras"


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"missing: no such file or folder"):
        model_file(tmp_path / "missing")
    with pytest.raises(ModelError, match=r"no run folder"):
        model_file(tmp_path)
    with pytest.raises(ModelError, match=r"no stage of this run is finished"):
        model_file(run_folder(tmp_path / "run", [], []))
