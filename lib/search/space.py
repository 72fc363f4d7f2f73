"""The search space: a direction over groups of channels, brought onto the budget in whole channels.

A proposal of rates that misses the budget teaches nothing about models that meet it. So only the direction is free;
how far to go along it follows from the budget, because what a plan costs is known without building it.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lib.arrays import BoolArray, FloatArray
from lib.errors import ConfigError
from lib.pruning.graph.sets import ChannelSet

Kept = tuple[int, ...]
"""Channels that stay, in the order of the space's sets."""

_BISECTIONS = 24
_OFFSETS = np.arange(0.5, 10_000) * 0.6180339887498949 % 1  # the golden ratio spreads any number of sets evenly


class Space:
    """All ways to meet a budget.

    Args:
        sets: the prunable sets of the model.
        groups: group name -> names of its sets, see `group_sets`.
        share: what a plan leaves of the budgeted quantity: channels that stay by set name -> 0..1, 1 for the whole.
        tolerance: how far from the target that share may be.
        max_rate: no group loses more than this share of its channels; a set keeps at least one.
        branches: groups whose sets may lose all channels. Their rate takes sets away whole, one after the other, in
            the order of `first_to_go`; the last one in part.
        first_to_go: set names, for groups in `branches`; by default in the model's order.
        divisor: the channels that stay are a multiple of this, as far as the set goes.
        min_channels: so many stay in every set that keeps any.

    Attributes:
        names: of the groups.
        may_go_whole: [groups], which of them are in `branches`.

    """

    def __init__(
        self,
        sets: Sequence[ChannelSet],
        groups: Mapping[str, Sequence[str]],
        share: Callable[[Mapping[str, int]], float],
        tolerance: float,
        *,
        max_rate: float = 0.98,
        branches: Sequence[str] = (),
        first_to_go: Sequence[str] = (),
        divisor: int = 1,
        min_channels: int = 1,
    ) -> None:
        unknown = [name for name in branches if name not in groups]
        if unknown:
            raise ConfigError(f"SEARCH.branches: {', '.join(unknown)}: no such group; known: {', '.join(groups)}")
        self.names = list(groups)
        self.set_names = [item.name for item in sets]
        self.sizes = np.array([item.size for item in sets])
        self.tolerance = tolerance
        self.max_rate = np.array([1.0 if name in branches else max_rate for name in groups])
        self._share = share
        self._shares: dict[Kept, float] = {}
        index = {name: i for i, name in enumerate(self.set_names)}
        rank = {name: i for i, name in enumerate(first_to_go)}
        self._members = [
            np.array([index[name] for name in sorted(groups[group], key=lambda name: rank.get(name, index[name]))])
            if group in branches
            else np.array([index[name] for name in groups[group]])
            for group in groups
        ]
        self.may_go_whole = np.array([name in branches for name in groups])
        self._membership = np.zeros((len(self.sizes), len(groups)))
        for column, members in enumerate(self._members):
            self._membership[members, column] = 1
        self._group_sizes = self.sizes @ self._membership
        self._divisor = divisor
        self._fewest = np.minimum(self.sizes, max(min_channels, divisor))
        self._least = self._fewest.copy()
        for members, whole in zip(self._members, self.may_go_whole, strict=True):
            if whole:
                self._least[members] = 0

    def share(self, kept: Kept) -> float:
        """What a plan leaves of the budgeted quantity, 0..1."""
        if kept not in self._shares:
            self._shares[kept] = self._share(self.by_name(kept))
        return self._shares[kept]

    def by_name(self, kept: Kept) -> dict[str, int]:
        """Set name -> channels that stay."""
        return dict(zip(self.set_names, kept, strict=True))

    def meets(self, kept: Kept, target: float) -> bool:
        return abs(self.share(kept) - target) <= self.tolerance + 1e-12

    def counts(self, rates: FloatArray) -> Kept:
        """Channels that stay at the given rate of each group, [groups].

        Of each set rate * channels go, rounded down or up. At which fraction a set is rounded up differs from set to
        set: with equal sets all losing a channel at the same rate (as published: floor), a group of 4 channels a set
        would know four rates, and budgets would be met by accident.
        """
        kept = self.sizes.copy()
        for rate, members, whole in zip(rates, self._members, self.may_go_whole, strict=True):
            sizes = self.sizes[members]
            if whole:
                left_to_remove = int(rate * sizes.sum() + 1e-9)
                gone = np.clip(left_to_remove - np.concatenate([[0], np.cumsum(sizes)[:-1]]), 0, sizes)
            else:
                gone = np.floor(rate * sizes + _OFFSETS[: len(sizes)] + 1e-9).astype(int)
            kept[members] = np.maximum(sizes - gone, self._least[members])
        stepped = np.minimum(self.sizes, -(-kept // self._divisor) * self._divisor)
        return tuple(np.where(kept > 0, np.maximum(stepped, self._fewest), 0).tolist())

    def rates(self, kept: Kept | Sequence[Kept]) -> FloatArray:
        """The share of each group's channels that a plan takes away, [groups]; of n plans, [n, groups]."""
        return 1 - np.asarray(kept) @ self._membership / self._group_sizes

    def path(self, directions: FloatArray, distance: FloatArray, held: BoolArray) -> FloatArray:
        """Rates [n, groups] at a distance [n], 0..2, along directions [n, groups], each 0..1; the largest leads.

        From nothing (0) straight to where the first group is at its limit (1), from there straight to where all are
        (2): so every direction reaches every budget that can be reached at all.

        Args:
            held: [n], on which paths groups that may go whole keep the rates that the directions give them, at any
                distance: a branch thinned to meet a budget loses channels and saves next to no time. Such a path may
                miss a budget.

        """
        fixed = held[:, None] & self.may_go_whole
        leading = normalized(np.where(fixed, 0, directions))
        first = np.minimum(distance, 1)[:, None] * leading
        rest = np.maximum(distance - 1, 0)[:, None] * (1 - leading)
        return np.where(fixed, directions, first + rest) * self.max_rate

    def solve(self, direction: FloatArray, target: float, *, held: bool = True) -> Kept | None:
        """The plan in this direction that leaves `target` of the budget; None if whole channels cannot come so near.

        The distance is bisected. Where several sets lose a channel at the same point, and the share jumps over the
        tolerance, single channels are moved.

        Args:
            direction: [groups], 0..1, see `path`.
            held: that path is tried first, if some groups, and not all, may go whole.

        """
        some = self.may_go_whole.any() and not self.may_go_whole.all()
        if held and some and (kept := self._along(direction, target, held=True)) is not None:
            return kept
        return self._along(direction, target, held=False)

    def _along(self, direction: FloatArray, target: float, *, held: bool) -> Kept | None:
        def at(distance: float) -> Kept:
            return self.counts(self.path(direction[None], np.array([distance]), np.array([held]))[0])

        low, high = 0.0, 2.0
        above, below = at(low), at(high)
        if held and not self.share(below) <= target <= self.share(above):
            return None
        if self.share(below) > target:
            return self._adjusted(below, below, target)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            kept = at(middle)
            if self.share(kept) > target:
                low, above = middle, kept
            else:
                high, below = middle, kept
        return self._adjusted(above, below, target)

    def check(self, target: float) -> None:
        """Raises ConfigError if no plan can leave `target` of the budgeted quantity, saying what could be left."""
        least = self.share(self.counts(self.max_rate))
        if target < least - self.tolerance or target > 1:
            raise ConfigError(
                f"SEARCH.target = {target:g} cannot be reached: with every group at its limit {least:.3f} is left; "
                f"choose a target between {least:.2f} and 1, or let groups lose whole branches (SEARCH.branches)"
            )
        if self.solve(np.ones(len(self.names)), target, held=False) is None:
            raise ConfigError(
                f"SEARCH.target = {target:g}: with whole channels no plan comes within SEARCH.tolerance = "
                f"{self.tolerance:g}; raise the tolerance"
            )

    def _adjusted(self, above: Kept, below: Kept, target: float) -> Kept | None:
        """A plan within the tolerance, from the two neighbours on the path that have the target between them."""
        best = min(above, below, key=lambda kept: abs(self.share(kept) - target))
        if self.meets(best, target):
            return best
        # First the channels in which the neighbours differ, so that the direction stays; then any.
        between = np.flatnonzero(np.array(above) != np.array(below))
        for movable in (between, np.arange(len(self.sizes))):
            while True:
                steps = [step for index in movable for step in self._steps(best, int(index))]
                nearer = min(steps, key=lambda kept: abs(self.share(kept) - target), default=best)
                if abs(self.share(nearer) - target) >= abs(self.share(best) - target) - 1e-12:
                    break
                best = nearer
                if self.meets(best, target):
                    return best
        return None

    def _steps(self, kept: Kept, index: int) -> list[Kept]:
        """The plan with one step of channels less in a set, and with one more, where that is allowed."""
        size, step = int(self.sizes[index]), self._divisor
        counts = [max(0, -(-kept[index] // step) - 1) * step, min(size, (kept[index] // step + 1) * step)]
        return [
            (*kept[:index], count, *kept[index + 1 :])
            for count in counts
            if self._least[index] <= count != kept[index] and (count == 0 or count >= self._fewest[index])
        ]


def normalized(directions: FloatArray) -> FloatArray:
    """Directions [n, groups] with 1 as the largest entry of each; a direction of zeros becomes the uniform one."""
    largest = directions.max(axis=1, keepdims=True)
    return np.where(largest > 0, directions / np.where(largest > 0, largest, 1), 1.0)
