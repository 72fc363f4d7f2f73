"""Which channels of a model are active, by its weights or on images, and the multiply-accumulates that they need.

A layer's channels are looked at where it hands them on: behind the batch normalisation and the activation that follow
it directly. Its multiply-accumulates are then H * W * kh * kw * active in * active out.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from lib.data.images import read_rgb
from lib.models import inference_model
from lib.models.any_size import ready_for_any_size
from lib.models.folding import scale_and_offset
from lib.pruning.cost import LayerCost, count_macs, count_parameters, layer_costs, zero_share
from lib.pruning.graph.calls import plain_calls, readers
from lib.pruning.graph.kinds import has_factors

Rule = Literal["filter", "silent"]
Mask = NDArray[np.bool_]  # [channels], True: active
RULES = ("by_filters", "not_silent", "on_images")  # the three counts of a report

_COUNTED = (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense)
_FOLLOWING = (layers.BatchNormalization, layers.ReLU, layers.Activation)


@dataclass(frozen=True)
class LayerActivity:
    """How much of one layer is active, averaged over images where there are several.

    Attributes:
        channels: all its channels.
        active: those that are active.
        macs: multiply-accumulates that the active channels need, of the layer's input and its own.

    """

    name: str
    channels: int
    active: float
    macs: float


def active_by_weights(model: keras.Model, costs: list[LayerCost], rule: Rule = "filter") -> list[LayerActivity]:
    """Activity of every convolution and dense layer, read off the weights.

    An addition or fusion is active where one operand is, a product where all are. Behind layers that mix channels
    (reshaping, heads) all count as active.

    Args:
        model: a functional model.
        costs: its `lib.pruning.cost.layer_costs`, at the input size that counts.
        rule: "filter": a channel is inactive if its filter is all zero, as B-FPGM (arXiv 2501.16917) counts; behind a
            batch normalisation it may still be a constant. "silent": it is inactive if it is zero at every input:
            filter and bias zero, and nothing added by the batch normalisation.

    """
    graph = _Graph(model)
    masks: dict[int, Mask] = {}
    for layer, inputs, output in graph.calls:
        masks[id(output)] = _mask_behind(layer, [masks.get(id(tensor)) for tensor in inputs], output, rule)

    return _activities(graph, costs, masks.__getitem__)


def active_on_images(
    model: keras.Model,
    costs: list[LayerCost],
    images_rgb: Iterable[NDArray[np.uint8]],
) -> list[LayerActivity]:
    """Activity of every convolution and dense layer, measured: the mean over images, each run at its own size.

    A channel is active on an image if it is anywhere other than zero, which behind a ReLU means that its maximum over
    height and width is above zero (the count of the pruned DSFD).

    Args:
        costs: the model's `lib.pruning.cost.layer_costs`, at the input size that counts.
        images_rgb: [H, W, 3] each, at least one.

    Raises:
        ValueError: there is no image.

    """
    probe = ActivityProbe(model, costs)
    ready_for_any_size(probe.model)
    found = [probe(image[None]) for image in images_rgb]
    if not found:
        raise ValueError("activity cannot be measured without an image")
    return _mean(found)


class ActivityProbe:
    """Measures activity as `active_on_images` does, on a model that may be in training.

    Args:
        model: a functional model.
        costs: its `lib.pruning.cost.layer_costs`, at the input size that counts.

    """

    def __init__(self, model: keras.Model, costs: list[LayerCost]) -> None:
        self._graph, self._costs = _Graph(model), costs
        tensors = {id(tensor): tensor for call in self._graph.counted for tensor in (call.input, call.endpoint)}
        active = [
            ops.any(ops.not_equal(tensor, 0), axis=tuple(range(1, len(tensor.shape) - 1)))
            for tensor in tensors.values()
        ]
        self._tensors = list(tensors)
        self.model = keras.Model(model.inputs, active)
        if keras.backend.backend() == "tensorflow":
            self.model.jit_compile = False  # XLA would compile anew at every image size

    def __call__(self, images_rgb: NDArray[Any]) -> list[LayerActivity]:
        """Activity of every convolution and dense layer, the mean over images [B, H, W, 3], 0..255."""
        found = self.model.predict_on_batch(np.asarray(images_rgb, np.float32))
        each = []
        for index in range(len(images_rgb)):
            masks = {key: np.asarray(value[index]) for key, value in zip(self._tensors, found, strict=True)}
            each.append(_activities(self._graph, self._costs, masks.__getitem__))
        return _mean(each)


def cost_report(
    model: keras.Model,
    height_px: int,
    width_px: int,
    full: keras.Model | None = None,
    images: Sequence[Path] = (),
) -> dict[str, Any]:
    """All that a detector costs at one input size, as a JSON-able dict; of two shots only the one that detects counts.

    Args:
        full: the model that the percentages refer to; None: `model` itself with all its channels.
        images: image files to measure activity on; without any, the keys that end in `_on_images` are None.

    Returns:
        `parameters`, `zero_share`, `macs`, `full_macs`; `macs_by_filters`, `macs_not_silent` and `macs_on_images` (see
        `active_by_weights` for the rules), and for each layer of `layers` its name, parameters, macs, channels,
        `active_by_filters`, `active_not_silent` and `active_on_images`.

    Raises:
        DataError: an image cannot be read.

    """
    model = inference_model(model)
    costs = layer_costs(model, height_px, width_px)
    counts = {
        "by_filters": active_by_weights(model, costs, "filter"),
        "not_silent": active_by_weights(model, costs, "silent"),
    }
    if images:
        counts["on_images"] = active_on_images(model, costs, (read_rgb(path) for path in images))
    found = {rule: {item.name: item for item in items} for rule, items in counts.items()}
    rows = []
    for cost in costs:
        if cost.name not in found["by_filters"]:
            continue
        row = {**asdict(cost), "channels": found["by_filters"][cost.name].channels}
        for rule in RULES:
            row[f"active_{rule}"] = found[rule][cost.name].active if rule in found else None
        rows.append(row)
    macs = sum(cost.macs for cost in costs)
    return {
        "height_px": height_px,
        "width_px": width_px,
        "parameters": count_parameters(model),
        "zero_share": zero_share(model),
        "macs": macs,
        "full_macs": count_macs(inference_model(full), height_px, width_px) if full else macs,
        "images": len(images),
        **{f"macs_{rule}": sum(i.macs for i in counts[rule]) if rule in counts else None for rule in RULES},
        "layers": rows,
    }


@dataclass(frozen=True)
class _Call:
    """One use of a counted layer: the tensor that goes in, and the one that the next counted layers see."""

    layer: keras.layers.Layer
    input: Any
    endpoint: Any


class _Graph:
    """A functional model's calls, producers first, and those of the layers that are counted."""

    def __init__(self, model: keras.Model) -> None:
        self.calls = list(plain_calls(model))
        users = readers(self.calls)
        self.counted = []
        for layer, inputs, output in self.calls:
            if isinstance(layer, _COUNTED):
                endpoint = output
                while len(following := users.get(id(endpoint), [])) == 1 and isinstance(following[0][0], _FOLLOWING):
                    endpoint = following[0][1]
                self.counted.append(_Call(layer, inputs[0], endpoint))


def _mask_behind(layer: keras.layers.Layer, inputs: list[Mask | None], output: Any, rule: Rule) -> Mask:
    """The activity of a layer's output channels by its weights."""
    known = [mask for mask in inputs if mask is not None]
    channels = output.shape[-1]
    if isinstance(layer, _COUNTED):
        kernel = np.asarray(layer.kernel)
        if isinstance(layer, layers.DepthwiseConv2D):
            kernel = kernel.reshape(*kernel.shape[:2], 1, -1)
        filters: Mask = np.any(kernel != 0, axis=tuple(range(kernel.ndim - 1)), keepdims=True).reshape(-1)
        if isinstance(layer, layers.DepthwiseConv2D):
            filters &= np.repeat(known[0], layer.depth_multiplier)
        if rule == "silent" and layer.use_bias:
            filters |= np.asarray(layer.bias) != 0
        return filters
    if isinstance(layer, layers.BatchNormalization) and rule == "silent":
        scale, offset = scale_and_offset(layer)
        active: Mask = (known[0] & (scale != 0)) | (offset != 0)
        return active
    if isinstance(layer, layers.Concatenate) and sum(len(mask) for mask in known) == channels:
        return np.concatenate(known)
    same = bool(known) and all(len(mask) == channels for mask in known)
    if same and isinstance(layer, layers.Multiply):
        return np.asarray(np.all(known, axis=0))
    if same and (len(known) == 1 or isinstance(layer, layers.Add) or has_factors(layer)):
        return np.asarray(np.any(known, axis=0))
    return np.ones(channels or 1, bool)


def _activities(graph: _Graph, costs: list[LayerCost], mask_of: Callable[[int], Mask]) -> list[LayerActivity]:
    """The counted layers' activity by the masks of tensors, by id; of several uses the most active one."""
    macs = {cost.name: cost.macs for cost in costs}
    result: dict[str, LayerActivity] = {}
    for call in graph.counted:
        entering, leaving = mask_of(id(call.input)), mask_of(id(call.endpoint))
        share = leaving.mean()
        if not isinstance(call.layer, layers.DepthwiseConv2D):
            share *= entering.mean()
        name = call.layer.name
        one = LayerActivity(name, len(leaving), float(leaving.sum()), float(share * macs[name]))
        if name not in result or one.macs > result[name].macs:
            result[name] = one
    return [result[cost.name] for cost in costs if cost.name in result]


def _mean(found: Sequence[list[LayerActivity]]) -> list[LayerActivity]:
    """The mean over images of the layers' activities."""
    return [
        LayerActivity(
            items[0].name,
            items[0].channels,
            sum(item.active for item in items) / len(items),
            sum(item.macs for item in items) / len(items),
        )
        for items in zip(*found, strict=True)
    ]
