import pytest

from lib.errors import ConfigError
from lib.pruning import plan, plan_kept
from lib.pruning.choice import Choice
from tests.detectors import small_detector


def test_a_choice_is_a_plan_with_its_settings() -> None:
    model = small_detector(8)
    choice = Choice("random", "per_layer", channel_divisor=2, min_channels=2, seed=5)
    masks = plan(model, 0.5, "random", "per_layer", channel_divisor=2, min_channels=2, seed=5)
    assert choice(model, 0.5) == masks
    assert Choice("random", "per_layer", 2, 2, seed=6)(model, 0.5) != masks
    assert Choice()(model, {"conv*": 0.5}) == plan(model, {"conv*": 0.5})
    guarded = Choice(protected=("conv1",))
    assert guarded(model, 0.5) == plan(model, 0.5, protected=("conv1",))
    assert guarded.kept(model, {}) == plan_kept(model, {}, protected=("conv1",))
    with pytest.raises(ConfigError, match="no criterion is called 'best'"):
        Choice("best")(model, 0.5)


def test_counts_in_place_of_rates() -> None:
    model, kept = small_detector(8), {"conv1": 1}
    assert Choice("random", seed=3).kept(model, kept) == plan_kept(model, kept, "random", seed=3)
    assert Choice("l1", channel_divisor=4).kept(model, kept) == plan_kept(model, kept, "l1")
