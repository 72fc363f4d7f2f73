import time

import pytest

from lib.cli import progress_bar


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
