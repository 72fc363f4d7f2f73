import json

import pytest

from lib.pruning import Masks
from lib.training.position import Best, Position


@pytest.mark.parametrize(
    "position",
    [
        Position("pretrain", 3),
        Position("soft_prune", 3, 5, Best(2, 0.1), Masks("removable", {"conv1": (0, 3)}), [[0.1], [2.0]]),
    ],
)
def test_json_and_back(position: Position) -> None:
    assert Position.from_dict(json.loads(json.dumps(position.to_dict()))) == position
