import os
import subprocess
import sys
from typing import Any

import pytest

from lib.errors import ConfigError
from lib.pruning.schedule import pruning_schedule
from tests.shared import ROOT


@pytest.mark.parametrize("name", ["constant", "polynomial"])
@pytest.mark.parametrize(("every", "epochs", "expected"), [(2, 6, [2, 4, 6]), (2, 5, [2, 4, 5]), (9, 3, [3])])
def test_when_it_prunes(name: Any, every: int, epochs: int, expected: list[int]) -> None:
    schedule = pruning_schedule(name, 0.3, every, epochs)
    assert [epoch for epoch in range(1, epochs + 1) if schedule(epoch)[0]] == expected
    assert schedule(epochs) == (True, 0.3)


def test_the_polynomial_is_zhu_and_guptas_and_full_one_pruning_before_the_end() -> None:
    schedule = pruning_schedule("polynomial", 0.4, 1, 9)
    for epoch in range(1, 9):
        assert schedule(epoch)[1] == pytest.approx(0.4 * (1 - (1 - epoch / 8) ** 3), abs=1e-6)
    schedule = pruning_schedule("polynomial", 0.4, 2, 7)
    assert [schedule(epoch) for epoch in (6, 7)] == [(True, 0.4)] * 2
    assert schedule(4)[1] < 0.4


def test_a_constant_rate_is_not_spoilt_by_float32() -> None:
    for rate in (0.29, 1.0, 0.0):
        schedule = pruning_schedule("constant", rate, 1, 3)
        assert [schedule(epoch) for epoch in (1, 2, 3)] == [(True, rate)] * 3


def test_without_the_library_a_constant_rate_still_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow_model_optimization", None)
    schedule = pruning_schedule("constant", 0.3, 2, 5)
    assert [schedule(epoch) for epoch in range(1, 6)] == [(now, 0.3) for now in (False, True, False, True, True)]
    with pytest.raises(ConfigError, match="tensorflow-model-optimization's, which cannot be imported"):
        pruning_schedule("polynomial", 0.3, 2, 5)


def test_the_environment_stays_as_it_was() -> None:
    """In a process of its own: the import acts once."""
    script = """
import os, keras
before = dict(os.environ)
from lib.pruning.schedule import pruning_schedule
assert dict(os.environ) == before, "importing the module"
pruning_schedule("polynomial", 0.5, 1, 4)
assert dict(os.environ) == before, "using it"
assert "tensorflow_model_optimization" in __import__("sys").modules
assert keras.Model.__module__.startswith("keras.")
"""
    environment = {name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, check=True)
