"""A few hundred damaged inputs; benchmarks/fuzz.py tries thousands."""

from collections import Counter
from pathlib import Path

import pytest

from tests.fuzz.generator import cases, judge

COUNT = 360


@pytest.mark.parametrize("seed", [0])
def test_a_damaged_input_is_read_rightly_or_refused_in_words(tmp_path: Path, seed: int) -> None:
    outcomes = [(case, judge(case)) for case in cases(seed, COUNT, tmp_path)]
    faults = [f"{case.door}: {case.what}: {outcome.said}" for case, outcome in outcomes if outcome.kind == "fault"]
    assert not faults, "\n".join(faults)
    kinds = Counter(outcome.kind for _, outcome in outcomes)
    assert kinds["clean error"] > COUNT / 3, kinds


def test_the_same_seed_makes_the_same_cases(tmp_path: Path) -> None:
    first, second = ([case.what for case in cases(3, 27, tmp_path / name)] for name in ("a", "b"))
    assert first == second
