"""How channels are chosen: what `plan` is told besides a model and rates, kept together for a whole run."""

from collections.abc import Mapping
from dataclasses import dataclass

import keras

from lib.pruning.graph.sets import Mode
from lib.pruning.masks import Masks
from lib.pruning.plan import Rates, plan, plan_kept


@dataclass(frozen=True)
class Choice:
    """A way to choose channels; call it as `plan(model, rates)`.

    Attributes:
        criterion, mode, channel_divisor, min_channels: see `plan`.
        protected: patterns of layer names; the channels that these read or make stay.
        seed: of the criterion "random".

    """

    criterion: str = "fpgm"
    mode: Mode = "removable"
    channel_divisor: int = 1
    min_channels: int = 1
    protected: tuple[str, ...] = ()
    seed: int = 0

    def __call__(self, model: keras.Model, rates: Rates) -> Masks:
        """The channels that go at these rates; raises as `plan` does."""
        return plan(
            model,
            rates,
            criterion=self.criterion,
            mode=self.mode,
            channel_divisor=self.channel_divisor,
            min_channels=self.min_channels,
            protected=self.protected,
            seed=self.seed,
        )

    def kept(self, model: keras.Model, kept: Mapping[str, int]) -> Masks:
        """The channels that go where so many of each set stay; raises as `plan_kept` does.

        Divisor and least number are the counts' own affair. Mode "removable" only.
        """
        return plan_kept(model, kept, criterion=self.criterion, protected=self.protected, seed=self.seed)
