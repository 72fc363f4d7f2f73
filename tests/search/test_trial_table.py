import logging
from pathlib import Path

import numpy as np
import pytest

from lib.search.oracle import Finished, Proposal
from lib.search.space import Kept
from lib.search.trial_table import Figures, TrialTable, best_of, rates_of, read_rates, read_table, write_rates
from tests.search.toys import SIZES, toy_space


def _finished(number: int, loss: float, phase: str = "random", target: float = 0.6) -> Finished:
    kept = toy_space().counts(np.full(6, 0.1 * (number + 1)))
    return Finished(Proposal(number, phase, target, kept), -loss, loss, 1.5)  # type: ignore[arg-type]


def test_a_row_a_finished_trial(tmp_path: Path) -> None:
    def figures(kept: Kept) -> Figures:
        return Figures(sum(kept), 7, None if kept[0] > 6 else 2.5)

    record = TrialTable(tmp_path / "search.csv", toy_space(), figures)
    record.update([_finished(0, 3.0)])
    record.update([_finished(0, 3.0), _finished(2, 2.5)])
    header, first, second = (tmp_path / "search.csv").read_text().splitlines()
    assert header == "trial,a,b,c,d,e,f,parameters,macs,ms,budget_ratio,val_loss,objective,seconds"
    names, rows = read_table(tmp_path / "search.csv")
    assert names == list("abcdef")
    assert [row["trial"] for row in rows] == [0, 2]
    space = toy_space()
    for row, item in zip(rows, (_finished(0, 3.0), _finished(2, 2.5)), strict=True):
        kept = item.proposal.kept
        assert row["budget_ratio"] == pytest.approx(space.share(kept), abs=1e-5)
        assert [row[name] for name in names] == pytest.approx(space.rates(kept).tolist(), abs=1e-4)
        assert (row["parameters"], row["val_loss"], row["objective"]) == (sum(kept), item.val_loss, -item.val_loss)
    assert np.isnan(rows[0]["ms"]), first
    assert rows[1]["ms"] == 2.5, second


def test_the_best_is_announced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    record = TrialTable(tmp_path / "search.csv", toy_space(), lambda _: Figures(0, 0))
    with caplog.at_level(logging.INFO):
        record.announce(_finished(1, 4.0), _finished(0, 3.0), 10)
    assert "trial 2 of 10 (random)" in caplog.text
    assert "best: trial 1, objective -3.0000" in caplog.text


def test_best_by_target_and_longer_trials_decide() -> None:
    short = [_finished(0, 3.0), _finished(1, 2.0), _finished(2, 1.0, target=0.4)]
    assert best_of([]) is None
    assert best_of(short) == short[2]
    assert best_of(short, 0.6) == short[1]
    longer = [*short, _finished(0, 2.8, "long")]
    assert best_of(longer, 0.6) == longer[3]


def test_rates_bring_back_the_plan(tmp_path: Path, rng: np.random.Generator) -> None:
    """floor(rate * channels), as pruning counts, for every plan."""
    space = toy_space()
    for _ in range(20):
        kept = space.counts(rng.uniform(0, 0.98, 6))
        rates = rates_of(space, kept)
        sizes = zip(space.set_names, SIZES, strict=True)
        left = [size - int(rates.get(name, 0.0) * size + 1e-9) for name, size in sizes]
        assert left == list(kept)
    item = _finished(3, 2.0)
    write_rates(tmp_path / "rates.json", space, item)
    assert read_rates(tmp_path / "rates.json") == rates_of(space, item.proposal.kept)
