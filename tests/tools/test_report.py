from pathlib import Path

import pytest

from tools.report import main


def test_what_is_no_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path)])
    assert stop.value.code == 2
    assert "no run folder" in capsys.readouterr().err


def test_a_page_replaces_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path), f"--output={tmp_path}/model.keras"])
    assert "model.keras: expected a name ending in .html" in capsys.readouterr().err
