import subprocess
import sys
from pathlib import Path

import pytest

from lib.errors import TrainingError
from lib.runs.lock import NAME, FolderLock
from tests.shared import ROOT

HOLD = "import sys, pathlib; from lib.runs.lock import FolderLock\nlock = FolderLock.take(pathlib.Path(sys.argv[1]))\n"
HOLD += "print('held', flush=True); sys.stdin.read()"


def _holder(folder: Path) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_another_process_is_refused_and_a_dead_ones_lock_is_taken_over(tmp_path: Path) -> None:
    process = _holder(tmp_path)
    try:
        with pytest.raises(TrainingError, match=rf"another process works in it \(process {process.pid} on .*wait"):
            FolderLock.take(tmp_path)
    finally:
        process.kill()
        process.wait()
    assert (tmp_path / NAME).is_file()
    FolderLock.take(tmp_path)


def test_a_process_may_ask_again_and_lets_go(tmp_path: Path) -> None:
    lock = FolderLock.take(tmp_path)
    assert FolderLock.take(tmp_path) is lock
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert FolderLock.take(moved) is lock
    del lock
    process = _holder(moved)
    process.kill()
    process.wait()
