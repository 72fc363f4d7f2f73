"""Published EResFD, B-FPGM and YuNet weights into our models."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from lib.errors import ModelError
from lib.models import build, published_yunet
from lib.models.eresfd import BLOCKS_PER_STAGE
from lib.models.pth import read_pth
from lib.models.yunet import yunet

# The published layout of EResFD: five files with a common prefix; the last two are empty.
_PARTS = (".base.pth", ".loc.pth", ".conf.pth", ".act_loc.pth", ".act_conf.pth")
_PART_PREFIX = {".base.pth": "base.", ".loc.pth": "loc.", ".conf.pth": "conf."}
_BN_FIELDS = ("weight", "bias", "running_mean", "running_var")  # in the order of Keras' gamma, beta, mean, variance


def read_published(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Tensors by published name (`base.conv1.0.weight`, `loc.0.bias`, ...) from any published layout.

    Args:
        path: one file with everything, any of EResFD's five files, or their common prefix (`.../eresfd_16.pth`), or
            YuNet's `.onnx`.

    """
    if Path(path).suffix == ".onnx":
        return published_yunet.read_onnx(Path(path))
    parts = _part_files(path)
    present = [file for file in parts.values() if file.is_file()]
    if not present:
        return read_pth(path)
    if len(present) < len(parts):
        missing = ", ".join(str(file) for file in parts.values() if file not in present)
        raise ModelError(f"{missing}: missing; the published EResFD weights are {', '.join(_PART_PREFIX)} side by side")
    return {_PART_PREFIX[part] + name: array for part, file in parts.items() for name, array in read_pth(file).items()}


def published_anchor_ratio(path: str | os.PathLike[str]) -> float:
    """Anchor height / width by layout: EResFD's five files were trained with 1.25, B-FPGM's single ones with 1.0."""
    return 1.25 if any(file.is_file() for file in _part_files(path).values()) else 1.0


def _part_files(path: str | os.PathLike[str]) -> dict[str, Path]:
    """Where the parts of the five-file layout would be, by suffix; empty parts left out."""
    prefix = str(path)
    for part in _PARTS:
        prefix = prefix.removesuffix(part)
    return {part: Path(prefix + part) for part in _PART_PREFIX}


@dataclass
class ImportReport:
    """What became of each published tensor.

    Attributes:
        used: published name -> name of the variable that took it.
        ignored: published name -> why it has no use (an alias, a counter, an unknown name).

    """

    used: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)


def published_model(
    path: str | os.PathLike[str], anchor_ratio: float | None = None
) -> tuple[keras.Model, ImportReport]:
    """The model that published weights are of, with them in it.

    Args:
        anchor_ratio: of an EResFD; None: by the layout of the files.

    Raises:
        ModelError: tensors are missing or of another shape, or an anchor ratio is out of range or given for a YuNet.

    """
    tensors = read_published(path)
    if not published_yunet.is_yunet(tensors):
        model = build("eresfd", anchor_ratio=published_anchor_ratio(path) if anchor_ratio is None else anchor_ratio)
    elif anchor_ratio is not None:
        raise ModelError(f"{path}: a YuNet has no anchors, so leave the anchor ratio away")
    else:
        options = published_yunet.build_options(tensors, path)
        model = yunet(**options, name="yunet_n" if options["shared_head"] else "yunet_s")
    return model, import_into(model, path)


def import_into(model: keras.Model, path: str | os.PathLike[str]) -> ImportReport:
    """Copies published weights into an EResFD or YuNet; nothing is changed unless every tensor fits.

    Raises:
        ModelError: tensors are missing or of another shape; all of them are named.

    """
    tensors = read_published(path)
    theirs = published_yunet.assignments if published_yunet.is_yunet(tensors) else _assignments
    report = ImportReport()
    values: list[tuple[Any, np.ndarray]] = []
    missing, misshaped = [], []
    for name, variable, array in theirs(model, tensors):
        if array is None:
            missing.append(name)
        elif tuple(array.shape) != tuple(variable.shape):
            misshaped.append(
                f"{name} (expected {tuple(variable.shape)}, found {tuple(array.shape)}, in Keras' axis order)"
            )
        elif array.dtype.kind != "f":
            misshaped.append(f"{name} (holds {array.dtype}; expected float16, float32 or float64)")
        elif not np.all(np.abs(array) <= np.finfo(np.float32).max):
            misshaped.append(f"{name} (holds values that are not finite in single precision)")
        elif name.endswith("running_var") and array.min() < 0:
            misshaped.append(f"{name} (holds negative variances)")
        else:
            values.append((variable, array))
            report.used[name] = variable.path
    if missing or misshaped:
        problems = [f"{len(missing)} tensors missing: {', '.join(missing)}"] if missing else []
        problems += [f"{len(misshaped)} tensors do not fit: {', '.join(misshaped)}"] if misshaped else []
        raise ModelError(f"{path}: not the weights of {model.name!r}; {'; '.join(problems)}")
    report.ignored.update(_reasons(tensors, {name.partition("[")[0] for name in report.used}))
    for variable, array in values:
        variable.assign(array.astype(np.float32))
    return report


def _reasons(tensors: dict[str, np.ndarray], used: set[str]) -> Iterator[tuple[str, str]]:
    """(name, why it is ignored) for every tensor that is not used."""
    by_content = {(array.shape, array.tobytes()): name for name, array in tensors.items() if name in used}
    for name, array in tensors.items():
        if name in used:
            continue
        twin = by_content.get((array.shape, array.tobytes()))
        if name.endswith("num_batches_tracked"):
            yield name, "batch counter"
        else:
            yield name, f"alias of {twin}" if twin else "unknown: no layer of ours has this name"


def _assignments(model: keras.Model, tensors: dict[str, np.ndarray]) -> Iterator[tuple[str, Any, np.ndarray | None]]:
    """(published name, our variable, its value in our axis order or None) for every variable of the model."""
    for conv, conv_name, bn_name in _published_convolutions():
        layer = model.get_layer(conv)
        kernel = tensors.get(f"{conv_name}.weight")
        if kernel is not None and kernel.ndim == 4:
            kernel = kernel.transpose(2, 3, 1, 0)  # [out, in, kh, kw] -> [kh, kw, in, out]
        yield f"{conv_name}.weight", layer.kernel, kernel
        if bn_name is None:
            yield f"{conv_name}.bias", layer.bias, tensors.get(f"{conv_name}.bias")
            continue
        bn = model.get_layer(f"{conv}_bn")
        for variable, bn_field in zip((bn.gamma, bn.beta, bn.moving_mean, bn.moving_variance), _BN_FIELDS, strict=True):
            yield f"{bn_name}.{bn_field}", variable, tensors.get(f"{bn_name}.{bn_field}")
    columns = tensors.get("base.m0.fpn.w1")
    for column, fusion in enumerate(_FUSIONS):
        fits = columns is not None and columns.shape == (2, len(_FUSIONS))
        value = columns[:, column] if fits and columns is not None else columns
        yield f"base.m0.fpn.w1[{column}]", model.get_layer(fusion).fusion_weight, value


# Column k of the published 2x9 fusion matrix belongs to the k-th of these layers.
_FUSIONS = ("fuse0", "fuse1", "fuse2", "fuse3", "fuse4", "post_fuse1", "post_fuse2", "post_fuse3", "post_fuse4")


def _published_convolutions() -> Iterator[tuple[str, str, str | None]]:
    """(our convolution, its published name, the published name of its batch norm or None) in EResFD."""
    for i in (1, 2, 3):
        yield f"conv{i}", f"base.conv{i}.0", f"base.conv{i}.1"
    blocks = [("conv4", "base.conv4", False)]
    for stage, count in enumerate(BLOCKS_PER_STAGE, start=1):
        blocks += [(f"stage{stage}_block{b}", f"base.m0.b2_{stage}.{b}", b == 0) for b in range(count)]
    for ours, theirs, has_shortcut in blocks:
        yield f"{ours}_conv1", f"{theirs}.res_layer.0", f"{theirs}.res_layer.1"
        yield f"{ours}_conv2", f"{theirs}.res_layer.3", f"{theirs}.res_layer.4"
        if has_shortcut:
            yield f"{ours}_shortcut", f"{theirs}.shortcut_layer.0", f"{theirs}.shortcut_layer.1"
    for group, ours, count in (("laterals", "lateral", 5), ("itm", "intermediate", 4)):
        for i in range(count):
            theirs = f"base.m0.fpn.{group}.{i}.conv"
            yield f"{ours}{i}", f"{theirs}.0", f"{theirs}.1"
    for level in range(6):
        theirs = f"base.m0.FEM_{level}"
        for ours, branch, index in (
            ("branch1", "res_branch1", 0),
            ("branch2a", "res_branch2", 0),
            ("branch2b", "res_branch2", 3),
            ("branch3a", "res_branch3", 0),
            ("branch3b", "res_branch3", 3),
        ):
            yield f"context{level}_{ours}", f"{theirs}.{branch}.{index}", f"{theirs}.{branch}.{index + 1}"
        yield f"head{level}_boxes", f"loc.{level}", None
        yield f"head{level}_scores", f"conf.{level}", None
