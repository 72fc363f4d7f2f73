import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lib.console import friendly_errors, progress_bar, whole_number, without_native_notes
from lib.errors import DataError
from tests.shared import ROOT


def test_toolkit_errors_become_a_message_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop, friendly_errors():
        raise DataError("a.txt:3: broken")
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: a.txt:3: broken\n"


def test_interruption_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop, friendly_errors("say it again"):
        raise KeyboardInterrupt
    assert stop.value.code == 130
    assert capsys.readouterr().err == "say it again\n"


def test_bugs_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError), friendly_errors():
        raise ZeroDivisionError


def test_progress_ends_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    show = progress_bar("reading")
    for done in (1, 2):
        show(done, 2)
    assert capsys.readouterr().err.strip().startswith("reading: 2/2 images")


def test_progress_outside_a_terminal_is_a_line_a_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 10.0, 61.0, 62.0, 100.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    show = progress_bar("single")
    for done in (10, 61, 62, 1000):
        show(done, 1000)
    assert capsys.readouterr().err.splitlines() == [
        "single: 61/1000 images, 1.0/s, 16 min left ",
        "single: 1000/1000 images, 10.0/s, 0 s left ",
    ]


def test_whole_numbers_have_bounds() -> None:
    convert = whole_number(1, 5000)
    assert [convert(text) for text in ("1", "5000")] == [1, 5000]
    for text in ("0", "-5", "5001", "1.0", "nan", "x", ""):
        with pytest.raises(argparse.ArgumentTypeError, match=f"expected a whole number from 1 to 5,000, got {text}$"):
            convert(text)
    with pytest.raises(argparse.ArgumentTypeError, match=r"got 9{20}\.\.\.$"):
        convert("9" * 5000)


def test_notes_of_native_code_are_left_out(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), without_native_notes():
        os.write(2, b"I0000 00:00:17.1 2 port.cc:153] oneDNN is on\nF0000 00:00:17.1 fatal\nanother line\n")
        raise ZeroDivisionError
    assert capfd.readouterr().err == "F0000 00:00:17.1 fatal\nanother line\n"


@pytest.mark.parametrize(("asked", "shown"), [({}, False), ({"TF_CPP_MIN_LOG_LEVEL": "0"}, True)])
def test_noisy_libraries_are_imported_quietly(tmp_path: Path, asked: dict[str, str], shown: bool) -> None:
    (tmp_path / "tensorflow.py").write_text("import os\nos.write(2, b'I0000 00:00:17.1 noise\\n')\nloaded = True\n")
    code = "from lib.console import start_logging; start_logging(); import tensorflow; assert tensorflow.loaded"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]), **asked}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert ("noise" in done.stderr) == shown
