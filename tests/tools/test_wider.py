import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lib.data.images import write_rgb
from lib.detection.protocols import PROTOCOLS
from lib.models import save
from tests.detectors import small_detector
from tests.shared import ROOT

tool = importlib.import_module("tools.wider")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and a data set of two images."""
    root = tmp_path_factory.mktemp("wider")
    save(small_detector(), root / "model.keras")
    for number in range(2):
        image = np.random.default_rng(number).integers(0, 256, (48, 64, 3), np.uint8)
        write_rgb(root / "WIDER_val" / "images" / "0--Event" / f"{number}.jpg", image)
    return root


def arguments(folder: Path, result: Path, **changes: str) -> list[str]:
    options = {"model": str(folder / "model.keras"), "data_dir": str(folder / "WIDER_val"), "result": str(result)}
    return [f"--{name}={value}" for name, value in {**options, **changes}.items()]


def refusal(capsys: pytest.CaptureFixture[str], options: list[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        tool.main(options)
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_writes_files_and_goes_on(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(arguments(folder, tmp_path / "r", protocol="single")) == 0
    captured = capsys.readouterr()
    assert "2 files written, 0 kept, protocol single" in captured.out
    assert "single: 2/2 images" in captured.err
    assert sorted(path.name for path in (tmp_path / "r" / "0--Event").iterdir()) == ["0.txt", "1.txt"]
    assert tool.main(arguments(folder, tmp_path / "r", protocol="single")) == 0
    assert "0 files written, 2 kept" in capsys.readouterr().out


def test_protocol_names_are_those_of_the_library() -> None:
    assert list(tool.PROTOCOL_NAMES) == list(PROTOCOLS)


def test_unreadable_images_are_named_at_the_end(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rgb(tmp_path / "d" / "images" / "good.jpg", np.zeros((40, 40, 3), np.uint8))
    (tmp_path / "d" / "images" / "bad.jpg").write_bytes(b"no image")
    options = arguments(folder, tmp_path / "r", data_dir=str(tmp_path / "d"), protocol="single")
    assert tool.main(options) == 1
    captured = capsys.readouterr()
    assert "1 files written" in captured.out
    assert "no prediction for bad.jpg" in captured.err
    assert "1 of 2 images could not be used" in captured.err
    assert sorted(path.name for path in (tmp_path / "r").glob("*.txt")) == ["good.txt"]


def test_bad_input_is_one_line_on_stderr(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such folder" in refusal(capsys, arguments(folder, tmp_path / "r", data_dir=str(tmp_path / "no")))
    assert "no such file" in refusal(capsys, arguments(folder, tmp_path / "r", model=str(tmp_path / "no.keras")))
    assert "--shard 3/2: expected NUMBER/COUNT" in refusal(capsys, arguments(folder, tmp_path / "r", shard="3/2"))
    assert "--workers 0" in refusal(capsys, arguments(folder, tmp_path / "r", workers="0"))
    assert "invalid choice" in refusal(capsys, arguments(folder, tmp_path / "r", protocol="best"))
    assert not (tmp_path / "r").exists()


def test_a_result_of_another_protocol_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tool.main(arguments(folder, tmp_path / "r", protocol="single"))
    assert "another protocol" in refusal(capsys, arguments(folder, tmp_path / "r", protocol="multiscale"))


def test_a_shard_says_what_is_its_own(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(arguments(folder, tmp_path / "r", protocol="single", shard="2/2")) == 0
    assert "1 files written, 0 kept, protocol single, shard 2/2" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "r" / "0--Event").iterdir()) == ["1.txt"]


@pytest.mark.slow  # each process imports TensorFlow
def test_two_processes_fill_one_folder_at_once(folder: Path, tmp_path: Path) -> None:
    joined, whole = tmp_path / "joined", tmp_path / "whole"
    processes = [
        subprocess.Popen([sys.executable, "tools/wider.py", *options], cwd=ROOT)
        for options in (arguments(folder, joined, protocol="single", shard=f"{number}/2") for number in (1, 2))
    ]
    assert [process.wait(300) for process in processes] == [0, 0]
    assert tool.main(arguments(folder, whole, protocol="single")) == 0
    names = ["manifest.json", "0--Event/0.txt", "0--Event/1.txt"]
    assert [(joined / name).read_bytes() for name in names] == [(whole / name).read_bytes() for name in names]
    assert sorted(path.name for path in joined.rglob("*.json")) == [
        "manifest.json",
        "shard_1_of_2.json",
        "shard_2_of_2.json",
    ]
