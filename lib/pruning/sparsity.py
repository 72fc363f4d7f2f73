"""The group-sparsity loss on activations: it drives the weakest channels' maxima to zero, which switches them off.

It is the pruning loss of the pruned DSFD (a DSFD, arXiv 1810.10220, that gets smaller while it is trained): for each
endpoint, the output of a convolution after its ReLU, and each image, the channels' maxima over height and width; of
these the mean of the lowest share; of these the mean over the batch; and of all endpoints the sum, times alpha.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from lib.errors import ConfigError, ModelError
from lib.pruning.graph.calls import Calls, layers_of

Ratios = float | Sequence[float] | Mapping[str, float]

_CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D)
_RELUS = (keras.activations.relu, keras.activations.relu6)
_REST = "*"  # in a mapping: all endpoints that nothing else names


@dataclass(frozen=True)
class Endpoint:
    """The output of a convolution after its ReLU.

    Attributes:
        name: the convolution.
        layer: the layer that hands the output on: the ReLU, or the convolution whose own activation is one.
        channels: how many channels it has.

    """

    name: str
    layer: str
    channels: int


def endpoints(model: keras.Model) -> list[Endpoint]:
    """The endpoints of a functional model, in the order in which `model.summary()` lists their convolutions.

    A convolution has one if its activation is a ReLU, or if a ReLU follows it with at most batch normalisation in
    between and nothing else looks at what lies between. For a VGG-16 that is every convolution.

    Raises:
        ModelError: the model is no functional one, or one ReLU layer serves several convolutions.

    """
    return [found for found, _ in _placed_endpoints(model)]


def _placed_endpoints(model: keras.Model) -> list[tuple[Endpoint, Any]]:
    """The endpoints, each with the layer that hands it on."""
    graph = Calls(model)
    place = {id(layer): index for index, layer in enumerate(layers_of(model))}
    found: dict[int, tuple[int, Endpoint, Any]] = {}  # by the layer that hands on: a shared convolution is one endpoint
    for call in graph.calls:
        if not isinstance(call.layer, _CONVOLUTIONS):
            continue
        last = call
        while not _is_relu(last.layer) and len(readers := graph.readers[last.outputs[0]]) == 1:
            if not _may_follow(graph.calls[readers[0]].layer):
                break
            last = graph.calls[readers[0]]
        if not _is_relu(last.layer):
            continue
        one = Endpoint(call.layer.name, last.layer.name, graph.shapes[call.outputs[0]][-1] or 0)
        _, other, _ = found.setdefault(id(last.layer), (place[id(call.layer)], one, last.layer))
        if other != one:
            raise ModelError(f"{last.layer.name} is the ReLU of both {other.name} and {one.name}; give each its own")
    return [(one, layer) for _, one, layer in sorted(found.values(), key=lambda item: item[0])]


class GroupSparsity:
    """Attaches the loss to a model's endpoints, as activity regularisers: no second forward pass, no special trainer.

    Do so before the step is compiled. Alpha and the ratios are variables: they can change between two steps without
    compiling again (on JAX if the step is given `variables`; otherwise it takes them for constants). Nothing of it is
    saved with the model, and copies of the model come without it.

    Args:
        model: a functional model.
        alpha: weight of the loss, at least 0.
        ratios: share of each endpoint's channels, 0..1, that the loss pulls at: floor(ratio * channels). One number for
            all; a list with one for each of `endpoints`, in their order; or a mapping from names of convolutions or
            patterns of them ("context*"). An exact name goes before a pattern, and "*" stands for the rest.

    Raises:
        ConfigError: alpha or a ratio is out of range, a list has the wrong length, or a mapping names what is not
            there, names something twice or leaves something out.
        ModelError: the model has no endpoint, or one of them has an activity regulariser already.

    """

    def __init__(self, model: keras.Model, alpha: float, ratios: Ratios) -> None:
        placed = _placed_endpoints(model)
        self.endpoints = [found for found, _ in placed]
        counts = lowest_counts(self.endpoints, ratios)
        if not self.endpoints:
            raise ModelError(f"{model.name}: no convolution is followed by a ReLU, so there is nothing to make sparse")
        self._layers = [layer for _, layer in placed]
        taken = [layer.name for layer in self._layers if layer.activity_regularizer is not None]
        if taken:
            raise ModelError(f"{', '.join(taken)}: there is an activity regulariser already; detach it first")
        self._alpha = keras.Variable(_checked_alpha(alpha), trainable=False, dtype="float32", autocast=False)
        self._counts = [keras.Variable(count, trainable=False, dtype="int32") for count in counts]
        for layer, count in zip(self._layers, self._counts, strict=True):
            layer.activity_regularizer = _LowestMaxima(self._alpha, count)
            layer.get_config = _without_regularizer(layer)  # or every saved file would need this module to be read

    @property
    def variables(self) -> list[keras.Variable]:
        """Alpha and the ratios."""
        return [self._alpha, *self._counts]

    @property
    def alpha(self) -> float:
        """Weight of the loss."""
        return float(self._alpha)

    @alpha.setter
    def alpha(self, value: float) -> None:
        self._alpha.assign(_checked_alpha(value))

    def set_ratios(self, ratios: Ratios) -> None:
        """Other ratios, given as to the constructor."""
        for variable, count in zip(self._counts, lowest_counts(self.endpoints, ratios), strict=True):
            variable.assign(count)

    def detach(self) -> None:
        """Takes the loss off the model again; a step that is compiled keeps it (set alpha to 0 instead)."""
        for layer in self._layers:
            layer.activity_regularizer = None
            layer.__dict__.pop("get_config", None)


class _LowestMaxima(keras.Regularizer):
    """alpha * the sum over images of the mean of the `count` lowest maxima; Keras divides it by the batch size."""

    def __init__(self, alpha: keras.Variable, count: keras.Variable) -> None:
        self.alpha, self.count = alpha, count

    def __call__(self, x: Any) -> Any:
        maxima = ops.max(x, axis=tuple(range(1, len(x.shape) - 1)))  # [B, C]
        ascending = ops.sort(ops.cast(maxima, "float32"), axis=-1)
        lowest = ops.where(ops.arange(x.shape[-1], dtype="int32") < self.count, ascending, 0.0)
        share = ops.cast(ops.maximum(self.count, 1), "float32")
        return self.alpha * ops.sum(lowest) / share


def lowest_counts(found: Sequence[Endpoint], ratios: Ratios) -> list[int]:
    """How many channels of each endpoint the loss pulls at; `ratios` and errors as for `GroupSparsity`."""
    names = [item.name for item in found]
    if isinstance(ratios, Mapping):
        chosen = _ratio_by_name(names, ratios)
    elif isinstance(ratios, Sequence):
        if len(ratios) != len(names):
            raise ConfigError(
                f"pruned_ratio lists {len(ratios)} ratios, but the model has {len(names)} endpoints: {', '.join(names)}"
            )
        chosen = list(ratios)
    else:
        chosen = [ratios] * len(names)
    for name, ratio in zip(names, chosen, strict=True):
        if not 0 <= ratio <= 1:
            raise ConfigError(f"the pruned_ratio of {name} must be from 0 to 1, got {ratio}")
    # 0.29 * 100 is 28.999... in floating point, and means 29.
    return [int(np.floor(ratio * item.channels + 1e-9)) for item, ratio in zip(found, chosen, strict=True)]


def _ratio_by_name(names: list[str], ratios: Mapping[str, float]) -> list[float]:
    known = f"known: {', '.join(names)}"
    unknown = [key for key in ratios if key != _REST and not any(fnmatchcase(name, key) for name in names)]
    if unknown:
        raise ConfigError(f"pruned_ratio names {', '.join(unknown)}, and no endpoint is called so; {known}")
    chosen = {}
    for name in names:
        patterns = [name] if name in ratios else [key for key in ratios if key != _REST and fnmatchcase(name, key)]
        if len(patterns) > 1:
            raise ConfigError(f"{name} has two ratios in pruned_ratio, by {patterns[0]!r} and by {patterns[1]!r}")
        if patterns or _REST in ratios:
            chosen[name] = ratios[patterns[0] if patterns else _REST]
    missing = [name for name in names if name not in chosen]
    if missing:
        raise ConfigError(f"pruned_ratio leaves out {', '.join(missing)}; '*' stands for the rest; {known}")
    return [chosen[name] for name in names]


def _checked_alpha(alpha: float) -> float:
    if not 0 <= alpha < float("inf"):
        raise ConfigError(f"pruned_alpha must be a number from 0 on, got {alpha}")
    return alpha


def _without_regularizer(layer: keras.layers.Layer) -> Callable[[], dict[str, Any]]:
    """The layer's own `get_config`, but for the regulariser."""
    own = layer.get_config

    def get_config() -> dict[str, Any]:
        regularizer, layer.activity_regularizer = layer.activity_regularizer, None
        try:
            return dict(own())
        finally:
            layer.activity_regularizer = regularizer

    return get_config


def _is_relu(layer: keras.layers.Layer) -> bool:
    if isinstance(layer, layers.ReLU):
        return not layer.negative_slope and not layer.threshold
    return isinstance(layer, (*_CONVOLUTIONS, layers.Activation)) and layer.activation in _RELUS


def _may_follow(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, layers.BatchNormalization) or (_is_relu(layer) and not isinstance(layer, _CONVOLUTIONS))
