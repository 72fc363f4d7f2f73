"""A search that costs nothing: a chain of 40 convolutions in six groups, and a loss in closed form."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lib.arrays import FloatArray
from lib.pruning import ChannelSet
from lib.search.oracle import Finished, Proposal, SearchOracle
from lib.search.space import Space
from lib.search.tuner import Measurement

SIZES = [8, 8, *(16,) * 18, *(8,) * 10, *(4,) * 10]
SETS = [ChannelSet(f"layer{i:02}", size, (f"layer{i:02}",), ()) for i, size in enumerate(SIZES)]
GROUPS = {
    name: tuple(f"layer{i:02}" for i in range(first, stop))
    for name, first, stop in [("a", 0, 2), ("b", 2, 10), ("c", 10, 20), ("d", 20, 30), ("e", 30, 35), ("f", 35, 40)]
}
BEST = np.array([0.05, 0.5, 0.2, 0.1, 0.4, 0.3])


def chain_share(kept: Mapping[str, int]) -> float:
    """Share of the weights of the chain that stay."""
    channels = np.array([3, *kept.values()], float)
    return float(channels[:-1] @ channels[1:] / (np.array([3, *SIZES[:-1]]) @ np.array(SIZES)))


def toy_space(tolerance: float = 0.01) -> Space:
    return Space(SETS, GROUPS, chain_share, tolerance)


def toy_loss(rates: FloatArray) -> float:
    return float(3 + (((rates - BEST) * [3, 2, 2, 1, 1, 1]) ** 2).sum())


def toy_oracle(targets: Sequence[float] = (0.6,), random: int = 12, guided: int = 18, **options: Any) -> SearchOracle:
    return SearchOracle(toy_space(), targets, random, guided, **options)


def toy_measure(proposal: Proposal) -> Measurement:
    return Measurement(toy_loss(toy_space().rates(proposal.kept)))


def outcome(finished: Sequence[Finished]) -> list[tuple[Any, ...]]:
    """What must not depend on the machine: everything but the seconds."""
    return [(item.proposal, item.objective, item.val_loss) for item in finished]
