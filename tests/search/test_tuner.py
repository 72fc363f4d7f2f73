import socket
from pathlib import Path

import pytest

from lib.errors import ConfigError, TrainingError
from lib.search.tuner import PENALTY_OUTSIDE, SearchTuner, as_environment, penalty, role_from_environment
from tests.search.toys import toy_measure, toy_oracle


def test_penalty_as_published() -> None:
    assert penalty(0.5, 0.5) == 0
    assert penalty(0.53, 0.5) == 0
    assert penalty(0.48, 0.5) == pytest.approx(0.02)
    assert penalty(0.55, 0.5) == penalty(0.45, 0.5) == PENALTY_OUTSIDE


def test_the_objective_is_the_loss_less_the_weighted_penalty(tmp_path: Path) -> None:
    oracle = toy_oracle(random=8, guided=0)
    SearchTuner(oracle, toy_measure, tmp_path / "search", regularization_coefficient=50.0).search()
    for item in oracle.finished():
        miss = max(0.0, oracle.space.share(item.proposal.kept) - 0.6)
        assert item.objective == pytest.approx(-item.val_loss - 50 * miss)
    assert any(item.objective != -item.val_loss for item in oracle.finished())


def test_roles(monkeypatch: pytest.MonkeyPatch) -> None:
    assert role_from_environment() == "alone"
    for role_id, role in (("chief", "chief"), ("worker0", "worker")):
        for name, value in as_environment(role_id, "127.0.0.1", 9000).items():
            monkeypatch.setenv(name, value)
        assert role_from_environment() == role
    monkeypatch.delenv("KERASTUNER_ORACLE_PORT")
    with pytest.raises(ConfigError, match="KERASTUNER_ORACLE_PORT: not set"):
        role_from_environment()


def test_a_worker_without_a_chief_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for name, value in as_environment("worker0", "127.0.0.1", port).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TrainingError, match=f"no chief of the search answers at 127.0.0.1:{port}; start"):
        SearchTuner(toy_oracle(), toy_measure, tmp_path / "search", chief_wait_s=0.2)
    monkeypatch.setenv("KERASTUNER_ORACLE_PORT", "http")
    with pytest.raises(ConfigError, match="must be a port number, got 'http'"):
        SearchTuner(toy_oracle(), toy_measure, tmp_path / "search", chief_wait_s=0.2)
    assert not list(tmp_path.iterdir())
