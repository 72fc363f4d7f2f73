"""How many channels every set keeps under a budget: found in closed form, exact to the channel."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lib.arrays import FloatArray, IntArray
from lib.errors import ConfigError
from lib.pruning.cost_model import CostModel

Quantity = Literal["macs", "parameters", "latency"]
Scope = Literal["set", "global"]
CostOf = Callable[[Mapping[str, int]], float]  # of so many channels kept by set name; others keep all


@dataclass(frozen=True)
class Budget:
    """What may be left of a model.

    Attributes:
        quantity: what is counted.
        share: of the whole model's, 0 < share <= 1.
        scope: "set": of every set the same share of channels goes; "global": one ranking over all sets, by scores that
            are divided by their set's mean.
        floor: with "global", the share of its channels that every set keeps at least.
        per: with "global", scores are divided by what a channel of their set costs: "macs" or "parameters"; None: not.
        latency_of: milliseconds of kept channels, such as a `lib.search.latency_table.LatencyTable`.

    """

    quantity: Quantity
    share: float
    scope: Scope = "set"
    floor: float = 0.1
    per: Literal["macs", "parameters"] | None = None
    latency_of: CostOf | None = None

    def check(self) -> None:
        """Raises ConfigError for values out of range or that do not go together."""
        if not 0 < self.share <= 1:
            raise ConfigError(
                f"{self.quantity} must be the share that is left, above 0 and at most 1, got {self.share}"
            )
        if self.scope not in ("set", "global"):
            raise ConfigError(f"scope must be 'set' or 'global', got {self.scope!r}")
        if not 0 <= self.floor <= 1:
            raise ConfigError(f"floor must be the share of its channels that a set keeps, 0 to 1, got {self.floor}")
        if self.per not in (None, "macs", "parameters"):
            raise ConfigError(f"per must be 'macs', 'parameters' or None, got {self.per!r}")
        if self.per and self.scope != "global":
            raise ConfigError("per weighs the channels of one set against those of another: it needs scope='global'")
        if (self.quantity == "latency") != (self.latency_of is not None):
            raise ConfigError(
                "latency and latency_of go together: a function from channels kept by set name to milliseconds, "
                "such as a lib.search.latency_table.LatencyTable"
            )


def counts_within(
    budget: Budget, costs: CostModel, scores: Mapping[str, FloatArray], divisor: int, least: int
) -> dict[str, int]:
    """Channels that every set keeps: as many as fit the budget; one more of any set would not.

    Channels leave one at a time, in the budget's order, until it is met; then sets get channels back, the last ones
    first, as long as they fit.

    Args:
        costs: of the model.
        scores: [channels] of every set that may lose some; others keep all.
        divisor: what stays of a set is rounded up to a multiple of this, as far as the set goes.
        least: so many stay in every set.

    Raises:
        ConfigError: the budget cannot be met; says what can, and which layers hold the rest.

    """
    cost_of = _cost_of(budget, costs)
    sizes = {item.name: item.size for item in costs.sets}
    names = [name for name in sizes if name in scores]
    whole = np.array([sizes[name] for name in names])
    floor = np.ceil(whole * budget.floor - 1e-9).astype(int) if budget.scope == "global" else np.zeros_like(whole)
    smallest = np.minimum(whole, np.maximum(floor, max(1, least)))
    drops = _order(budget, costs, {name: scores[name] for name in names}, smallest)

    def rounded(kept: IntArray) -> IntArray:
        return np.minimum(whole, np.maximum(smallest, -(-kept // divisor) * divisor))

    def after(count: int) -> IntArray:
        return rounded(whole - np.bincount(drops[:count], minlength=len(whole)))

    def cost(kept: IntArray) -> float:
        return cost_of(dict(zip(names, kept.tolist(), strict=True)))

    full = cost(whole)
    if not full > 0:
        raise ConfigError(f"this model has no {budget.quantity} to save; is an input of unknown size? Give size_px")
    allowed = budget.share * full * (1 + 1e-12)
    least_left = after(len(drops))
    if (left := cost(least_left)) > allowed:
        raise _unreachable(budget, costs, dict(zip(names, least_left.tolist(), strict=True)), left / full)
    too_few, enough = -1, len(drops)
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if cost(after(middle)) <= allowed:
            enough = middle
        else:
            too_few = middle
    kept, full_up = after(enough), np.zeros(len(whole), bool)
    for number in reversed(drops[:enough].tolist()):
        more = kept.copy()
        more[number] = min(whole[number], rounded(kept + 1)[number])
        if full_up[number] or more[number] == kept[number]:
            continue
        if cost(more) <= allowed:
            kept = more
        else:
            full_up[number] = True  # for good: what others get back only makes it dearer
    return {**sizes, **dict(zip(names, kept.tolist(), strict=True))}


def _cost_of(budget: Budget, costs: CostModel) -> CostOf:
    if budget.latency_of is not None:
        return budget.latency_of
    if budget.quantity == "macs":
        return lambda kept: costs.of(kept).macs
    return lambda kept: costs.of(kept).parameters


def _order(budget: Budget, costs: CostModel, scores: Mapping[str, FloatArray], smallest: IntArray) -> IntArray:
    """The set, by its number, that each channel leaves in turn; a set stops where `smallest` are left."""
    ranks: list[FloatArray] = [np.zeros(0)]
    numbers = [np.zeros(0, int)]
    for number, (name, said) in enumerate(scores.items()):
        leave = len(said) - int(smallest[number])
        rank: FloatArray = np.arange(1, leave + 1) / len(said) if budget.scope == "set" else np.sort(said)[:leave]
        ranks.append(rank / max(1, getattr(costs.of_channel(name), budget.per)) if budget.per else rank)
        numbers.append(np.full(leave, number))
    order = np.argsort(np.concatenate(ranks), kind="stable")
    return np.concatenate(numbers)[order]


def _unreachable(budget: Budget, costs: CostModel, kept: Mapping[str, int], left: float) -> ConfigError:
    by_layer = costs.by_layer(kept)
    quantity = "parameters" if budget.quantity == "parameters" else "macs"
    largest = sorted(by_layer, key=lambda name: -getattr(by_layer[name], quantity))[:3]
    return ConfigError(
        f"{budget.quantity}={budget.share} cannot be met: with all sets as small as they may be, {left:.4f} is left, "
        f"most of it in {', '.join(largest)}; ask for more, lower min_channels, floor or round_to, or protect less"
    )
