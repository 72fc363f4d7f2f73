import numpy as np
import pytest

from lib.pruning import plan, repair, shrink
from tests.pruning.test_repair import _images, _network


def test_activations_beyond_the_limit_wait_in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _network("plain")
    masks = plan(model, 0.4)
    held, filed = shrink(model, masks), shrink(model, masks)
    repair(model, held, masks, _images())
    monkeypatch.setattr("lib.pruning.held.HELD_BYTES", 1000)
    repair(model, filed, masks, _images())
    for a, b in zip(held.get_weights(), filed.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
