"""Where the tensors of published YuNet weights belong in our model.

The published network reads BGR; ours reads RGB, so its first kernel is turned round.
"""

import os
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from lib.arrays import FloatArray
from lib.errors import ModelError
from lib.limits import limit, raising

_BN_FIELDS = ("weight", "bias", "running_mean", "running_var")  # in the order of Keras' gamma, beta, mean, variance
_KINDS = {"class": "cls", "object": "obj", "boxes": "bbox", "landmarks": "kps"}
FIRST = "backbone.model0.conv1"


def is_yunet(names: Container[str]) -> bool:
    """Whether published tensors of these names are a YuNet's."""
    return f"{FIRST}.weight" in names


def build_options(tensors: dict[str, FloatArray], path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `lib.models.yunet.yunet` has to be given for these tensors, of the file at `path`, to fit.

    Raises:
        ModelError: the kernels that tell it are missing, of another shape, or of more channels than are read.

    """
    units = (FIRST, *(f"backbone.model{stage}.conv2.conv1" for stage in range(1, 6)))
    missing = [unit for unit in units if f"{unit}.weight" not in tensors]
    if missing:
        raise ModelError(f"{path}: not a whole YuNet: it lacks {', '.join(missing)}")
    stages: list[int] = []
    most = limit("max_channels")
    for unit in units:
        shape = tensors[f"{unit}.weight"].shape
        inputs = (stages[-1], 1, 1) if stages else (3, 3, 3)
        if len(shape) != 4 or shape[1:] != inputs or not shape[0]:
            raise ModelError(
                f"{path}: not a YuNet's weights: {unit}.weight is of shape {shape}; expected (any, "
                f"{', '.join(map(str, inputs))}), in PyTorch's axis order"
            )
        if shape[0] > most:
            raise ModelError(
                f"{path}: {unit}.weight makes {shape[0]:,} channels; at most {most:,} are read; "
                f"{raising('max_channels')}"
            )
        stages.append(shape[0])
    shared = any(name.startswith("bbox_head.multi_level_share_convs.") for name in tensors)
    return {"stages": tuple(stages), "shared_head": shared}


def assignments(model: keras.Model, tensors: dict[str, Any]) -> Iterator[tuple[str, Any, FloatArray | None]]:
    """(published name, our variable, its value in our axis order or None) for every variable of a YuNet."""
    names = {layer.name for layer in model.layers}
    for ours, theirs, norm in _convolutions():
        if ours not in names:
            continue  # without shared units
        layer = model.get_layer(ours)
        kernel = tensors.get(f"{theirs}.weight")
        if kernel is not None and kernel.ndim == 4:
            kernel = kernel.transpose(2, 3, 1, 0)  # [out, in, kh, kw] -> [kh, kw, in, out]
            if isinstance(layer, keras.layers.DepthwiseConv2D):
                kernel = kernel.transpose(0, 1, 3, 2)  # [kh, kw, 1, out] -> [kh, kw, out, 1]
            if theirs == FIRST:
                kernel = kernel[:, :, ::-1]
        yield f"{theirs}.weight", layer.kernel, kernel
        yield f"{theirs}.bias", layer.bias, tensors.get(f"{theirs}.bias")
        if norm is not None:
            bn = model.get_layer(f"{ours}_bn")
            variables = (bn.gamma, bn.beta, bn.moving_mean, bn.moving_variance)
            for variable, field in zip(variables, _BN_FIELDS, strict=True):
                yield f"{norm}.{field}", variable, tensors.get(f"{norm}.{field}")


def _convolutions() -> Iterator[tuple[str, str, str | None]]:
    """(our convolution, its published name, the published name of its batch normalisation or None)."""
    yield "model0_conv1", FIRST, "backbone.model0.bn1"
    units = [("model0_conv2", "backbone.model0.conv2")]
    units += [(f"model{s}_conv{c}", f"backbone.model{s}.conv{c}") for s in range(1, 6) for c in (1, 2)]
    for level in range(3):
        units.append((f"lateral{level}", f"neck.lateral_convs.{level}"))
        units.append((f"head{level}_shared", f"bbox_head.multi_level_share_convs.{level}.0"))
    for ours, theirs in units:
        yield f"{ours}_point", f"{theirs}.conv1", None
        yield ours, f"{theirs}.conv2", f"{theirs}.bn"
    for level in range(3):
        for kind, name in _KINDS.items():
            ours, theirs = f"head{level}_{kind}", f"bbox_head.multi_level_{name}.{level}"
            yield f"{ours}_point", f"{theirs}.conv1", None
            yield ours, f"{theirs}.conv2", None


def read_onnx(path: Path) -> dict[str, FloatArray]:
    """The published ONNX file's tensors under the names of the `.pth`.

    Its batch normalisations are folded into the convolutions before them: here they come back as ones that do nothing.
    The network is the same, but training it further starts without batch statistics; the `.pth` has them.

    Raises:
        ModelError: the file is missing, damaged or no published YuNet, or the package onnx is missing.

    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise ModelError(f"{path}: reading ONNX files needs the package onnx, which cannot be imported") from error
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
        values = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    except Exception as error:  # protobuf's own class, which it does not export everywhere
        raise ModelError(f"{path}: no ONNX file, or damaged: {error}") from error
    tensors: dict[str, FloatArray] = {}
    norms = {theirs: norm for _, theirs, norm in _convolutions()}
    last = ""
    for node in graph.node:
        if node.op_type != "Conv" or len(node.input) != 3 or not {*node.input[1:]} <= set(values):
            continue
        # Folding has taken the names of the convolutions before a normalisation: the depthwise one follows its unit's
        # pointwise one, and the very first has none before it.
        name = node.input[1].removesuffix(".weight")
        if name == node.input[1]:
            name = f"{last.removesuffix('.conv1')}.conv2" if last else FIRST
        last = name
        kernel, bias = (values[key] for key in node.input[1:])
        tensors |= {f"{name}.weight": kernel, f"{name}.bias": bias}
        if (norm := norms.get(name)) is not None:
            one = np.ones(bias.shape, np.float32)
            scale = one * np.sqrt(1 + 1e-5, dtype=np.float32)  # times 1 / sqrt(variance + epsilon): 1
            tensors |= dict(
                zip([f"{norm}.{field}" for field in _BN_FIELDS], (scale, 0 * one, 0 * one, one), strict=True)
            )
    if not is_yunet(tensors):
        raise ModelError(f"{path}: no published YuNet: its convolutions are not those of libfacedetection.train")
    return tensors
