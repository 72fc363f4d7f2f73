from pathlib import Path

import pytest

from lib.data.images import read_rgb
from lib.files import write_json
from lib.models import save
from tests.detectors import small_detector
from tools.demo import RUN, main


def _run(folder: Path, stages: tuple[str, ...]) -> None:
    (folder / "optimized").mkdir(parents=True)
    for stage in stages:
        save(small_detector(), folder / "optimized" / f"{stage}.keras")
    write_json(folder / "state.json", {"rows": [{"stage": stage} for stage in stages]})


def test_a_run_is_shown_before_and_after(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run(tmp_path / "run", ("pretrain", "finetune"))
    picture = tmp_path / "demo.jpg"
    assert main([f"--model={tmp_path}/run", f"--output={picture}"]) == 0
    assert f"{picture}: pretrain, and on the right finetune on 4 drawn scenes" in capsys.readouterr().out
    assert read_rgb(picture).shape[1] > 4 * 300


def test_a_damaged_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(SystemExit) as stop:
        main([f"--model={tmp_path}"])
    assert stop.value.code == 2
    assert f"{tmp_path}/state.json: not as it was written" in capsys.readouterr().err


def test_without_a_run_it_says_how_to_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main([])
    assert f"{RUN}: no such run; `make train` makes it" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--output=x.bmp"])
    assert "ending in .jpg or .png" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--seed=-1"])
    assert "--seed: expected a whole number from 0" in capsys.readouterr().err
    (tmp_path / "x.jpg").mkdir()
    with pytest.raises(SystemExit):
        main(["--output=x.jpg"])
    assert "x.jpg: a folder" in capsys.readouterr().err
