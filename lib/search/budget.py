"""Budgets: what a plan leaves of a model's parameters, multiply-accumulates, milliseconds or filters."""

from collections.abc import Callable, Mapping
from typing import Literal

import keras
import numpy as np

from lib.errors import ConfigError
from lib.pruning import ChannelSet, CostModel, channel_sets
from lib.pruning.cost import count_parameters
from lib.pruning.graph.sets import Mode
from lib.search.space import Kept
from lib.search.trial_table import Figures

Quantity = Literal["macs", "parameters", "latency", "zeroed"]
Milliseconds = Callable[[Mapping[str, int]], float]


class Budget:
    """Prices plans of one model, in closed form.

    Args:
        quantity: "macs", "parameters": of the model that is left when the channels are removed. "latency": its
            milliseconds, as `milliseconds` predicts them. "zeroed": the parameters that are in no filter set to zero,
            as B-FPGM counts its sparsity; the only one for `mode` "per_layer", where what is zeroed stays in place.
        model: functional model of supported layers.
        mode: how the sets are formed, see `channel_sets`.
        height_px, width_px: input size for multiply-accumulates.
        protected: patterns of layers whose channels stay, see `channel_sets`.
        milliseconds: predicts a plan's milliseconds from the channels that stay by set name.

    Attributes:
        sets: the sets whose channels a plan counts.

    Raises:
        ConfigError: the quantity does not go with the mode, or milliseconds cannot be predicted.

    """

    def __init__(
        self,
        quantity: Quantity,
        model: keras.Model,
        mode: Mode = "removable",
        *,
        height_px: int = 480,
        width_px: int = 640,
        protected: tuple[str, ...] = (),
        milliseconds: Milliseconds | None = None,
    ) -> None:
        if mode == "per_layer" and quantity != "zeroed":
            raise ConfigError(
                f'SEARCH.budget = "{quantity}" needs PRUNE.mode = "removable"; masks by layer cannot be removed, and '
                'only SEARCH.budget = "zeroed" counts them'
            )
        if quantity == "latency" and milliseconds is None:
            raise ConfigError('SEARCH.budget = "latency" needs a table of milliseconds')
        self.quantity, self.mode, self._milliseconds = quantity, mode, milliseconds
        self.sets: list[ChannelSet] = channel_sets(model, mode, protected)
        self._cost = CostModel(model, height_px, width_px, protected)
        self._filters = np.array([_parameters_a_channel(model, item) for item in self.sets])
        self._parameters = count_parameters(model)
        self._full_ms = milliseconds({}) if milliseconds else None

    def share(self, kept: Mapping[str, int]) -> float:
        """What the plan leaves of the quantity, 1 for all of it.

        Args:
            kept: channels that stay by set name; sets that are not named keep all.

        """
        if self.quantity == "zeroed":
            gone = np.array([item.size - kept.get(item.name, item.size) for item in self.sets])
            return 1 - float(gone @ self._filters) / self._parameters
        if self.quantity == "latency":
            assert self._milliseconds is not None
            assert self._full_ms is not None
            return self._milliseconds(kept) / self._full_ms
        cost, full = self._cost.of(kept), self._cost.full
        return cost.macs / full.macs if self.quantity == "macs" else cost.parameters / full.parameters

    def figures(self, kept: Kept) -> Figures:
        """What a plan costs; masks by layer leave parameters that are not zero, and all multiply-accumulates."""
        named = dict(zip((item.name for item in self.sets), kept, strict=True))
        if self.mode == "per_layer":
            return Figures(round(self.share(named) * self._parameters), self._cost.full.macs)
        cost = self._cost.of(named)
        return Figures(cost.parameters, cost.macs, self._milliseconds(named) if self._milliseconds else None)


def _parameters_a_channel(model: keras.Model, item: ChannelSet) -> float:
    """Kernel and bias of one channel in all the layers that make it."""
    layers = [model.get_layer(name) for name in item.convolutions]
    kernels = sum(int(np.prod(layer.kernel.shape)) for layer in layers)
    biases = sum(int(np.prod(layer.bias.shape)) for layer in layers if layer.use_bias)
    return (kernels + biases) / item.size
