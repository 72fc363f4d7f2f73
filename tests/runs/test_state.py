import json
from typing import Any

import pytest

from lib.errors import TrainingError
from lib.pruning import Masks
from lib.runs.removal import Proof
from lib.runs.state import Removal, Row, RunState
from lib.training.position import Best, Position

FULL = RunState(
    ["pretrain", "search", "soft_prune", "shrink"],
    [Row("pretrain", 0.0, 10, 20, 0.5, protocol="as usual"), Row("shrunk", 0.0, 5, 6)],
    Position("finetune", 7, 3, Best(6, 1.5), Masks("removable", {"conv1": (0, 2), "conv2": ()}), [[1.0], [0.1, 2.0]]),
    [{"epoch": 1, "stage": "pretrain", "val_loss": 0.1}],
    "rates_0.5.json",
    Removal("soft_prune", Proof(3, 3, 1e-6, 8, 100, same_detections=True)),
)


@pytest.mark.parametrize("state", [RunState(), FULL])
def test_json_and_back(state: RunState) -> None:
    assert RunState.from_dict(json.loads(json.dumps(state.to_dict()))) == state


def test_a_finished_stage_has_left_a_row() -> None:
    with pytest.raises(TrainingError, match=r"run/state\.json: not as it was written \(rows: none.*--fresh"):
        RunState.from_dict({**FULL.to_dict(), "rows": []}, "run/state.json")


@pytest.mark.parametrize("old", [{"stages": [], "progress": None, "history": []}, {**FULL.to_dict(), "format": 3}])
def test_another_versions_file_is_refused(old: dict[str, Any]) -> None:
    with pytest.raises(TrainingError, match=r"run/state\.json: written by another version .*--fresh"):
        RunState.from_dict(old, "run/state.json")
