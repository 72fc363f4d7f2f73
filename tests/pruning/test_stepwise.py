import numpy as np
import pytest

from lib.errors import ConfigError
from lib.pruning import largest_difference, prune_stepwise
from lib.pruning.cost import count_macs, count_parameters
from tests.networks import copy_of, nested_networks

MODEL = nested_networks()["residual, nested 0"]


def test_each_step_leaves_the_same_share_and_the_last_one_the_budget() -> None:
    model = MODEL()
    before, whole = copy_of(model), count_macs(model, 16, 16)
    shares = [count_macs(small, 16, 16) / whole for small in prune_stepwise(model, macs=0.5, steps=3)]
    assert shares == sorted(shares, reverse=True)
    assert all(share <= 0.5 ** (step / 3) for step, share in enumerate(shares, 1))
    assert shares[-1] > 0.35
    assert not largest_difference(model, before, np.ones((1, 16, 16, 3), np.float32))


def test_the_next_step_starts_from_what_training_made() -> None:
    made = []
    for small in prune_stepwise(MODEL(), parameters=0.5, steps=2):
        small.get_layer("head").bias.assign([7.0, 8.0])
        made.append(small)
    assert made[1].get_layer("head").bias.numpy().tolist() == [7.0, 8.0]
    assert count_parameters(made[1]) < count_parameters(made[0])


def test_steps_are_repaired_on_images(rng: np.random.Generator) -> None:
    images = rng.uniform(0, 1, (8, 16, 16, 3)).astype(np.float32)
    model = MODEL()
    plain, repaired = (list(prune_stepwise(model, macs=0.7, steps=1, repair_on=on))[-1] for on in ([], list(images)))
    assert largest_difference(model, repaired, images) < largest_difference(model, plain, images)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"steps": 0, "macs": 0.5}, "at least 1"),
        ({"steps": 2.5, "macs": 0.5}, "whole number"),
        ({"steps": 1}, "one of macs"),
        ({"steps": 2, "macs": 1.5}, "at most 1, got 1.5"),
        ({"steps": 2, "parameters": -0.5}, "above 0"),
        ({"steps": 2, "macs": 0.0001}, "cannot be met"),
    ],
)
def test_unfit_steps(how: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        list(prune_stepwise(MODEL(), **how))  # type: ignore[arg-type]
