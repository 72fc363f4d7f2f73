"""The command as a user gives it; what it computes is tested in test_training.py."""

from pathlib import Path

import pytest

from pruned_train import main
from tests.shared import ROOT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["TRAIN.epohc=3"], "did you mean epoch"),
        (["TRAIN.epoch=many"], "valid integer"),
        (["--config", "absent.py"], "absent.py: no such config file"),
        (["MODEL.pretrained_model=pruned_train.py"], "pruned_train.py: not a .keras model"),
        (["DATA.train_txt_path=absent.txt", "DATA.val_txt_path=absent.txt"], "absent.txt: no such annotation file"),
    ],
)
def test_errors_are_short_and_cost_nothing(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as stop:
        main([f"MODEL.model_path={tmp_path / 'run'}", *arguments] if arguments[0] != "--config" else arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
