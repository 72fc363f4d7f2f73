import importlib
from pathlib import Path

import numpy as np
import pytest

from lib.data.images import write_rgb
from lib.detection.protocols import PROTOCOLS
from lib.models import save
from tests.detectors import small_detector

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
    assert "--workers 0" in refusal(capsys, arguments(folder, tmp_path / "r", workers="0"))
    assert "invalid choice" in refusal(capsys, arguments(folder, tmp_path / "r", protocol="best"))
    assert not (tmp_path / "r").exists()


def test_a_result_of_another_protocol_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tool.main(arguments(folder, tmp_path / "r", protocol="single"))
    assert "another protocol" in refusal(capsys, arguments(folder, tmp_path / "r", protocol="multiscale"))
