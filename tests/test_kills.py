"""kill -9 and start again; `python benchmarks/kills.py` does it more often."""

import pytest

from benchmarks.kills import ORDERS, main


@pytest.mark.slow
@pytest.mark.parametrize("stages", ORDERS)
def test_killed_runs_end_with_the_same_bits(stages: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--runs", "1", "--kills", "3", "--stages", stages]) == 0
    assert "1 of 1 runs end bitwise equal" in capsys.readouterr().out
