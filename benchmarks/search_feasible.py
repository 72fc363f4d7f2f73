"""How many random proposals meet the budget: B-FPGM's scheme and this toolkit's, on EResFD.

B-FPGM draws each group's rate from 0 to min(0.98, target + 0.2), zeroes floor(rate * filters) in every layer, and
trains a trial only if its sparsity is within 4 points of the target. Here the direction is drawn, and the rates follow
from the budget.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from lib.models import build
from lib.search.budget import Budget, Quantity
from lib.search.groups import group_sets, patterns_of
from lib.search.space import Space
from lib.tables import markdown_table

WINDOW = 0.04


def published_share(budget: Budget, split: str, target: float, points: int, seed: int) -> float:
    """The share of B-FPGM's random points that it would train."""
    groups = group_sets(budget.sets, patterns_of(split, "per_layer"))
    rng = np.random.default_rng(seed)
    feasible = 0
    for rates in rng.uniform(0, min(0.98, target + 0.2), (points, len(groups))):
        rate_of = {name: rate for rate, members in zip(rates, groups.values(), strict=True) for name in members}
        kept = {item.name: item.size - int(rate_of[item.name] * item.size) for item in budget.sets}
        feasible += abs(1 - budget.share(kept) - target) < WINDOW
    return feasible / points


def own_share(budget: Budget, split: str, target: float, points: int, seed: int, tolerance: float) -> float:
    """The share of our random points that leave 1 - target within the tolerance."""
    groups = group_sets(budget.sets, patterns_of(split, budget.mode))
    space = Space(budget.sets, groups, budget.share, tolerance)
    directions = np.random.default_rng(seed).uniform(size=(points, len(groups)))
    plans = [space.solve(direction, 1 - target) for direction in directions]
    return sum(plan is not None and space.meets(plan, 1 - target) for plan in plans) / points


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints a table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--points", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--tolerance", type=float, default=0.01)
    options = parser.parse_args(arguments)
    model = build("eresfd")
    zeroed = Budget("zeroed", model, "per_layer")
    targets, seeds = (0.2, 0.4, 0.6), range(options.seeds)
    rows = []
    for split in ("eresfd_6", "eresfd_6_files"):
        shares = [
            [published_share(zeroed, split, target, options.points, seed) for seed in seeds] for target in targets
        ]
        cells = [f"{100 * np.mean(share):.0f} % ({100 * min(share):.0f}-{100 * max(share):.0f})" for share in shares]
        rows.append([f"published, groups {split}, +-4 points of zeros", *cells])
    quantities: tuple[Quantity, ...] = ("zeroed", "parameters", "macs")
    for quantity in quantities:
        budget = Budget(quantity, model)
        shares = [
            [own_share(budget, "eresfd_6", target, options.points, seed, options.tolerance) for seed in seeds]
            for target in targets
        ]
        cells = [f"{100 * np.mean(share):.0f} % ({100 * min(share):.0f}-{100 * max(share):.0f})" for share in shares]
        rows.append([f"ours, +-{100 * options.tolerance:g} points of {quantity}", *cells])
    title = f"{options.points} random points, {options.seeds} times: feasible, mean (least-most)"
    print(markdown_table([title, *(f"{100 * target:.0f} % gone" for target in targets)], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
