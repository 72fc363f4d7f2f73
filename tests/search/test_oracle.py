import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from lib.errors import TrainingError
from lib.search.oracle import Finished, Proposal, SearchOracle
from lib.search.space import Space
from lib.search.trial_table import Figures, TrialTable, read_table
from lib.search.tuner import Measurement, SearchTuner
from tests.search.toys import GROUPS, SETS, chain_share, outcome, toy_loss, toy_measure, toy_oracle, toy_space


def _search(folder: Path, oracle: SearchOracle) -> list[Finished]:
    SearchTuner(oracle, toy_measure, folder).search()
    return oracle.finished()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> list[Finished]:
    return _search(tmp_path_factory.mktemp("toy") / "search", toy_oracle())


def test_phases_in_order(finished: list[Finished]) -> None:
    assert [item.proposal.phase for item in finished] == ["random"] * 12 + ["probe"] + ["guided"] * 18
    assert [item.proposal.number for item in finished] == list(range(31))


def test_every_trial_meets_the_budget_and_none_comes_twice(finished: list[Finished]) -> None:
    space = toy_space()
    assert all(space.meets(item.proposal.kept, 0.6) for item in finished)
    assert len({item.proposal.kept for item in finished}) == len(finished)


def test_random_trials_are_of_every_kind(tmp_path: Path) -> None:
    """Of groups that may go whole half of the trials take all or nothing, as far as the budget lets them."""
    space = Space(SETS, GROUPS, chain_share, 0.01, branches=("a", "e", "f"))
    oracle = SearchOracle(space, (0.6, 0.8), 16, 0)
    done = _search(tmp_path / "search", oracle)[:16]  # probes come behind them
    rates = space.rates([item.proposal.kept for item in done])[:, space.may_go_whole]
    at_ends = np.equal(rates, 0) | np.equal(rates, 1)
    kinds = np.arange(16) // 2 % 4
    assert not at_ends[kinds < 2].all(axis=1).any()
    assert at_ends[kinds >= 2].all(axis=1).sum() >= 5


def test_the_probe_is_uniform(finished: list[Finished]) -> None:
    rates = toy_space().rates(finished[12].proposal.kept)
    assert rates.std() < 0.03


def test_guided_trials_beat_the_others(finished: list[Finished]) -> None:
    losses = [item.val_loss for item in finished]
    assert min(losses[13:]) < min(losses[:13])
    assert np.median(losses[13:]) < np.median(losses[:12])


def test_the_seed_decides(tmp_path: Path, finished: list[Finished]) -> None:
    assert outcome(_search(tmp_path / "a", toy_oracle())) == outcome(finished)
    assert outcome(_search(tmp_path / "b", toy_oracle(guided=0, seed=1)))[0] != outcome(finished)[0]


def test_probing_offset_moves_the_probe_within_the_tolerance(tmp_path: Path) -> None:
    def probe(offset: float) -> Proposal:
        oracle = toy_oracle((0.6,), 0, 0, probing_offset=offset)
        return _search(tmp_path / str(offset), oracle)[0].proposal

    space = toy_space()
    uniform = 1 - 0.6**0.5  # a chain of n channels costs their square
    assert probe(uniform - 0.4).kept == space.counts(np.full(6, uniform))
    assert space.meets(probe(0.4).kept, 0.6), "an offset that misses the budget is solved for instead"


def test_several_targets_share_the_trials(tmp_path: Path) -> None:
    done = _search(tmp_path / "search", toy_oracle((0.8, 0.6, 0.4), 6, 9))
    targets = [item.proposal.target for item in done]
    assert targets == [0.8, 0.6, 0.4] * 6
    space = toy_space()
    assert all(space.meets(item.proposal.kept, item.proposal.target) for item in done)


def test_the_best_are_trained_longer_at_the_end(tmp_path: Path) -> None:
    done = _search(tmp_path / "search", toy_oracle(random=5, guided=3, n_long=2))
    assert [item.proposal.phase for item in done[-2:]] == ["long", "long"]
    best = sorted(done[:-2], key=lambda item: item.val_loss)
    assert [item.proposal.kept for item in done[-2:]] == [item.proposal.kept for item in best[:2]]


def test_failed_trials_are_skipped(tmp_path: Path) -> None:
    def measure(proposal: Proposal) -> Measurement:
        if proposal.number in (2, 3, 4, 5, 15):
            raise RuntimeError("out of luck")
        return Measurement(float("nan") if proposal.number == 7 else toy_loss(toy_space().rates(proposal.kept)))

    oracle = toy_oracle()
    SearchTuner(oracle, measure, tmp_path / "search").search()
    assert [item.proposal.number for item in oracle.finished()] == sorted(set(range(31)) - {2, 3, 4, 5, 7, 15})


def test_a_search_without_further_plans_ends(tmp_path: Path) -> None:
    done = _search(tmp_path / "search", toy_oracle((1.0,), 3, 0))
    assert len(done) < 4


def test_settings_of_the_process_are_stored(tmp_path: Path) -> None:
    _search(tmp_path / "search", toy_oracle(random=1, guided=0, alpha=0.01, beta=2.0))
    state = json.loads((tmp_path / "search" / "oracle.json").read_text())
    assert (state["alpha"], state["beta"]) == (0.01, 2.0)


def test_a_finished_search_is_not_run_again(tmp_path: Path) -> None:
    first = _search(tmp_path / "search", toy_oracle(random=4, guided=2))

    def forbidden(proposal: Proposal) -> Measurement:
        raise AssertionError(f"trial {proposal.number} runs twice")

    oracle = toy_oracle(random=4, guided=2)
    SearchTuner(oracle, forbidden, tmp_path / "search").search()
    assert oracle.finished() == first


def test_kills_lose_nothing_and_repeat_nothing(tmp_path: Path, finished: list[Finished]) -> None:
    """kill -9 at random moments, while trials are proposed, run and written; then on to the end."""
    table, starts = tmp_path / "search.csv", tmp_path / "starts.txt"

    def child() -> None:
        def measure(proposal: Proposal) -> Measurement:
            with starts.open("a") as log:
                log.write(f"{proposal.number}\n")
            time.sleep(0.02)
            return toy_measure(proposal)

        record = TrialTable(table, toy_space(), lambda _: Figures(0, 0, 1.0))
        SearchTuner(toy_oracle(on_finished=record.update), measure, tmp_path / "search").search()

    def started() -> list[str]:
        return starts.read_text().split() if starts.is_file() else []

    rng = np.random.default_rng()
    for life in range(6):
        before = read_table(table)[1] if table.is_file() else []
        earlier = len(started())
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                child()
                status = 0
            finally:
                os._exit(status)
        ended, status = 0, 0
        if life < 5:  # a few trials a life, far from all 31: no machine is fast enough to finish before the last kill
            trials = rng.integers(4)
            while not ended and len(started()) - earlier < trials:
                time.sleep(0.001)
                ended, status = os.waitpid(pid, os.WNOHANG)
            time.sleep(rng.uniform(0.0, 0.03))
            if not ended:
                os.kill(pid, signal.SIGKILL)
        if not ended:
            _, status = os.waitpid(pid, 0)
        again = started()[earlier:]
        rows = read_table(table)[1] if table.is_file() else []
        assert rows[: len(before)] == before, "a finished trial was lost"
        assert not {str(int(row["trial"])) for row in before} & set(again), "a finished trial ran twice"
        assert os.WIFSIGNALED(status) == (life < 5)
    assert status == 0
    assert [row["val_loss"] for row in rows] == [item.val_loss for item in finished], "as if never killed"


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"trial_id": "2"}', "cut sho"])
def test_a_damaged_trial_is_named(tmp_path: Path, damage: str) -> None:
    _search(tmp_path / "search", toy_oracle())
    next((tmp_path / "search").glob("trial_*2/trial.json")).write_text(damage)
    with pytest.raises(TrainingError, match=r"trial_\d*2/trial\.json: not as it was written .*restore it, or remove"):
        SearchTuner(toy_oracle(), toy_measure, tmp_path / "search")


def test_a_missing_trial_is_named_and_not_measured_for_ever(tmp_path: Path) -> None:
    _search(tmp_path / "search", toy_oracle())
    next((tmp_path / "search").glob("trial_*02/trial.json")).unlink()
    with pytest.raises(TrainingError, match=r"trial 2 is missing; restore it, or remove"):
        SearchTuner(toy_oracle(), toy_measure, tmp_path / "search")
