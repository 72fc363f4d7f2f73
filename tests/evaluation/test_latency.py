from collections import Counter

from lib.evaluation.latency import WARM_UPS, interleaved, litert_latencies
from tests.detectors import small_detector


def test_all_take_turns_and_every_one_is_first_once() -> None:
    calls: list[str] = []
    timed = interleaved({name: lambda name=name: calls.append(name) for name in "abc"}, rounds=6)  # type: ignore[misc]
    assert list(timed) == ["a", "b", "c"]
    rounds = ["".join(calls[start : start + 3]) for start in range(0, len(calls), 3)]
    assert len(rounds) == WARM_UPS + 6
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
    assert Counter(one[0] for one in rounds) == {"a": 3, "b": 3, "c": 3}
    assert all(0 <= one.best_ms <= one.median_ms for one in timed.values())


def test_detectors_are_measured_by_name() -> None:
    model = small_detector()
    timed = litert_latencies({"one": model, "other": model}, 64, 64, rounds=3)
    assert list(timed) == ["one", "other"]
    assert all(one.median_ms > 0 for one in timed.values())
