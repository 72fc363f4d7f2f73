import os
import subprocess
import sys
from dataclasses import asdict

import pytest

from lib.config.sections import Limits as Section
from lib.errors import ConfigError
from lib.limits import Limits, allowing, limits, raising


def test_the_config_has_every_limit_and_leaves_it_as_it_is() -> None:
    assert dict(Section()) == dict.fromkeys(asdict(Limits()))


def test_the_environment_says_what_holds_unless_it_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    assert limits() == Limits()
    monkeypatch.setenv("FACE_PRUNING_MAX_PIXELS", "1000")
    assert limits() == Limits(max_pixels=1000)


@pytest.mark.parametrize("text", ["", "0", "-1", "1e9", "many", "²"])
def test_what_is_no_whole_number_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("FACE_PRUNING_MAX_PIXELS", text)
    with pytest.raises(ConfigError, match=r"FACE_PRUNING_MAX_PIXELS = .* expected a whole number above 0"):
        limits()


def test_what_is_allowed_ends_with_its_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACE_PRUNING_MAX_PIXELS", "1000")
    before = dict(os.environ)
    with pytest.raises(KeyError), allowing(max_pixels=5, max_channels=7, max_tensor_bytes=None):
        assert limits() == Limits(max_pixels=5, max_channels=7)
        raise KeyError
    assert dict(os.environ) == before


def test_processes_that_are_started_have_the_same() -> None:
    with allowing(max_pixels=5):
        code = "from lib.limits import limits; print(limits().max_pixels)"
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"5\n"


def test_every_limit_is_named_with_its_remedy() -> None:
    assert (
        raising("max_pixels") == "raise LIMITS.max_pixels in the config, or FACE_PRUNING_MAX_PIXELS in the environment"
    )
