import keras
import pytest

from lib.errors import ConfigError
from lib.pruning import plan, plan_kept
from lib.pruning.choice import Choice


def test_a_choice_is_a_plan_with_its_settings(lively_model: keras.Model) -> None:
    choice = Choice("random", "per_layer", channel_divisor=2, min_channels=2, seed=5)
    masks = plan(lively_model, 0.5, "random", "per_layer", channel_divisor=2, min_channels=2, seed=5)
    assert choice(lively_model, 0.5) == masks
    assert Choice("random", "per_layer", 2, 2, seed=6)(lively_model, 0.5) != masks
    assert Choice()(lively_model, {"conv*": 0.5}) == plan(lively_model, {"conv*": 0.5})
    guarded = Choice(protected=("conv1",))
    assert guarded(lively_model, 0.5) == plan(lively_model, 0.5, protected=("conv1",))
    assert guarded.kept(lively_model, {}) == plan_kept(lively_model, {}, protected=("conv1",))
    with pytest.raises(ConfigError, match="no criterion is called 'best'"):
        Choice("best")(lively_model, 0.5)


def test_counts_in_place_of_rates(lively_model: keras.Model) -> None:
    kept = {"conv1": 1}
    assert Choice("random", seed=3).kept(lively_model, kept) == plan_kept(lively_model, kept, "random", seed=3)
    assert Choice("l1", channel_divisor=4).kept(lively_model, kept) == plan_kept(lively_model, kept, "l1")
