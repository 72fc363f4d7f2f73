"""What the search finds is tested in tests/search, and that it is pruned at in tests/runs/test_job.py."""

import keras
import pytest

from lib.errors import ConfigError
from lib.runs.stages.search import Search
from lib.search.run import SearchSettings


def test_a_budget_that_cannot_be_met_is_found_by_the_check(tiny_model: keras.Model) -> None:
    with pytest.raises(ConfigError, match=r"SEARCH\.target = 0\.0001 cannot be reached"):
        Search(SearchSettings(targets=(0.0001,))).check(tiny_model)
