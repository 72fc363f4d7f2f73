from pathlib import Path

import numpy as np
import pytest

import vis
from lib.data.images import read_rgb, write_rgb
from lib.models import save
from tests.detection.test_drawing import grey
from tests.detectors import small_detector
from tests.networks import lively


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.keras"
    save(lively(small_detector(), np.random.default_rng(0)), path)
    return path


def test_draws_a_folder(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rgb(tmp_path / "in" / "a.png", grey())
    (tmp_path / "in" / "b.jpg").write_bytes(b"broken")
    arguments = [f"--model={model}", f"--input={tmp_path}/in", f"--output={tmp_path}/out", "--score_threshold=0.01"]
    assert vis.main([*arguments, "--max_side=64"]) == 1
    assert "1 image could not be used" in capsys.readouterr().out
    assert (read_rgb(tmp_path / "out" / "a.png") != 90).any()


def test_limits_are_variables_of_the_environment(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rgb(tmp_path / "in" / "a.png", grey(64, 80))
    arguments = [f"--model={model}", f"--input={tmp_path}/in", f"--output={tmp_path}/out"]
    monkeypatch.setenv("FACE_PRUNING_MAX_PIXELS", "5119")
    assert vis.main(arguments) == 1
    assert "raise LIMITS.max_pixels in the config, or FACE_PRUNING_MAX_PIXELS in the environment" in caplog.text
    monkeypatch.setenv("FACE_PRUNING_MAX_PIXELS", "5120")
    assert vis.main(arguments) == 0


@pytest.mark.parametrize(("source", "message"), [("no.mp4", "no such file"), ("bad.mp4", "not one frame")])
def test_unreadable_video_is_named(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, message: str
) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(SystemExit) as stopped:
        vis.main([f"--model={model}", f"--input={tmp_path / source}", f"--output={tmp_path}/out"])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--max_side=15", "--max_side: expected a whole number from 16"),
        ("--output=~/drawn", "~ is not the home folder here"),
        (f"--output={__file__}", "test_vis.py: no folder"),
    ],
)
def test_unfit_arguments_are_named(argument: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        vis.main(["--input=x", argument])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_missing_model_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        vis.main([f"--model={tmp_path}/missing.pb", "--input=x"])
    assert "missing.pb: no such file" in capsys.readouterr().err
