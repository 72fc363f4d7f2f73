"""Published EResFD and B-FPGM weights (`.pth`) into our model, without PyTorch and without unpickling.

A `.pth` file is a zip of one pickle, which describes tensors, and their raw storages. `read_pth` walks the pickle's
opcodes and builds arrays only: names in it are compared with a short list and never imported or called.
"""

import math
import os
import pickletools
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from lib.errors import ModelError
from lib.models.archives import require_no_bomb
from lib.models.eresfd import BLOCKS_PER_STAGE

_STORAGE_DTYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "|b1",
}
_ORDERED_DICT = "collections OrderedDict"
_REBUILD_TENSOR = "torch._utils _rebuild_tensor_v2"
# The published layout of EResFD: five files with a common prefix; the last two are empty.
_PARTS = (".base.pth", ".loc.pth", ".conf.pth", ".act_loc.pth", ".act_conf.pth")
_PART_PREFIX = {".base.pth": "base.", ".loc.pth": "loc.", ".conf.pth": "conf."}
_BN_FIELDS = ("weight", "bias", "running_mean", "running_var")  # in the order of Keras' gamma, beta, mean, variance


class _RefusedError(Exception):
    """The pickle does something else than describe tensors."""


@dataclass(frozen=True)
class _Name:
    """A `module name` that the pickle mentions; never looked up."""

    name: str


@dataclass(frozen=True)
class _Storage:
    dtype: str
    key: str
    size: int


class _TensorReader:
    """A stack machine for the handful of pickle opcodes in which torch.save writes a state dict."""

    def __init__(self, archive: zipfile.ZipFile, root: str, allowed_bytes: int) -> None:
        self.archive = archive
        self.left_bytes = allowed_bytes
        self.root = root
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def read(self, pickle_bytes: bytes) -> Any:
        for opcode, argument, position in pickletools.genops(pickle_bytes):
            try:
                step = getattr(self, f"_op_{opcode.name.lower()}", None)
                if step is None:
                    raise _RefusedError(f"opcode {opcode.name}")
                step(argument)
            except _RefusedError as refusal:
                raise _RefusedError(f"{refusal} at byte {position}") from None
        return self.stack.pop()

    def _pop_to_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _op_proto(self, _: Any) -> None: ...

    def _op_frame(self, _: Any) -> None: ...

    def _op_stop(self, _: Any) -> None: ...

    def _op_mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def _push(self, value: Any) -> None:
        self.stack.append(value)

    _op_binint = _op_binint1 = _op_binint2 = _op_long1 = _op_binunicode = _op_short_binunicode = _push

    def _op_none(self, _: Any) -> None:
        self.stack.append(None)

    def _op_newtrue(self, _: Any) -> None:
        self.stack.append(True)

    def _op_newfalse(self, _: Any) -> None:
        self.stack.append(False)

    def _op_empty_dict(self, _: Any) -> None:
        self.stack.append({})

    def _op_empty_list(self, _: Any) -> None:
        self.stack.append([])

    def _op_empty_tuple(self, _: Any) -> None:
        self.stack.append(())

    def _op_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._pop_to_mark()))

    def _op_tuple1(self, _: Any) -> None:
        self.stack[-1:] = [tuple(self.stack[-1:])]

    def _op_tuple2(self, _: Any) -> None:
        self.stack[-2:] = [tuple(self.stack[-2:])]

    def _op_tuple3(self, _: Any) -> None:
        self.stack[-3:] = [tuple(self.stack[-3:])]

    def _op_binput(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    _op_long_binput = _op_binput

    def _op_memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _op_binget(self, index: int) -> None:
        self.stack.append(self.memo[index])

    _op_long_binget = _op_binget

    def _op_setitem(self, _: Any) -> None:
        key, value = self.stack[-2:]
        del self.stack[-2:]
        self._set_items([key, value])

    def _op_setitems(self, _: Any) -> None:
        self._set_items(self._pop_to_mark())

    def _set_items(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict):
            raise _RefusedError("items for something that is no dictionary")
        if not all(isinstance(key, str) for key in items[::2]):
            raise _RefusedError("an item without a name")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def _op_global(self, name: str) -> None:
        module, _, attribute = name.partition(" ")
        if name in (_ORDERED_DICT, _REBUILD_TENSOR) or (module == "torch" and attribute in _STORAGE_DTYPES):
            self.stack.append(_Name(name))
        else:
            raise _RefusedError(f"the name {name.replace(' ', '.')}, which a file of weights has no use for,")

    def _op_stack_global(self, _: Any) -> None:
        module, attribute = self.stack[-2:]
        del self.stack[-2:]
        self._op_global(f"{module} {attribute}")

    def _op_reduce(self, _: Any) -> None:
        callee, arguments = self.stack[-2:]
        del self.stack[-2:]
        if callee == _Name(_ORDERED_DICT) and arguments == ():
            self.stack.append({})
        elif callee == _Name(_REBUILD_TENSOR):
            self.stack.append(self._tensor(*arguments[:4]))
        else:
            raise _RefusedError("a call")

    def _op_build(self, _: Any) -> None:
        self.stack.pop()  # a state dict's `_metadata` attribute: versions of modules, not needed

    def _op_binpersid(self, _: Any) -> None:
        kind, storage_type, key, _location, size = self.stack.pop()
        if kind != "storage" or not isinstance(storage_type, _Name):
            raise _RefusedError("a persistent object that is no storage")
        self.stack.append(_Storage(_STORAGE_DTYPES[storage_type.name.partition(" ")[2]], str(key), int(size)))

    def _tensor(self, storage: Any, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray:
        if (
            not isinstance(storage, _Storage)
            or len(shape) != len(strides)
            or min((offset, *shape, *strides), default=0) < 0
        ):
            raise _RefusedError("a tensor without a valid storage, shape or strides")
        dtype = np.dtype(storage.dtype)
        member = f"{self.root}data/{storage.key}"
        if member not in self.archive.NameToInfo:
            raise _RefusedError(f"a tensor whose storage {member} is not in the file")
        if self.archive.NameToInfo[member].file_size != storage.size * dtype.itemsize:
            raise _RefusedError(f"a tensor whose storage {member} has another size than announced")
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        if 0 not in shape and last >= storage.size:
            raise _RefusedError(f"a tensor of shape {shape} that reaches beyond its storage {member}")
        values = math.prod(shape)
        self.left_bytes -= values * dtype.itemsize
        if values > storage.size or self.left_bytes < 0:  # strides of 0 make much out of little
            raise _RefusedError(f"tensors that are larger than their storages, as the one of shape {shape}")
        flat = np.frombuffer(self.archive.read(member), dtype)
        view = np.lib.stride_tricks.as_strided(flat[offset:], shape, [s * dtype.itemsize for s in strides])
        return view.copy()


def read_pth(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The tensors of a PyTorch state dict.

    Raises:
        ModelError: the file is missing, damaged, in another format, or its pickle holds anything but tensors.

    """
    file = Path(path)
    if not file.is_file():
        raise ModelError(f"{file}: no such file")
    remedy = "expected a state dict written by torch.save() of PyTorch 1.6 or later"
    if not zipfile.is_zipfile(file):
        raise ModelError(f"{file}: not a zip archive, so damaged or written by an older PyTorch; {remedy}")
    try:
        with zipfile.ZipFile(file) as archive:
            pickles = [name for name in archive.namelist() if name == "data.pkl" or name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise ModelError(f"{file}: {len(pickles)} data.pkl inside instead of one; {remedy}")
            allowed = require_no_bomb(archive, file, pickles[0])
            reader = _TensorReader(archive, pickles[0].removesuffix("data.pkl"), allowed)
            content = reader.read(archive.read(pickles[0]))
    except _RefusedError as refusal:
        raise ModelError(f"{file}: refused, nothing in it was executed: its pickle holds {refusal}; {remedy}") from None
    except ModelError:
        raise
    except Exception as error:  # a damaged file makes zip and pickle readers fail in many ways
        raise ModelError(f"{file}: damaged ({type(error).__name__}: {error}); {remedy}") from error
    if not isinstance(content, dict) or not all(isinstance(value, np.ndarray) for value in content.values()):
        raise ModelError(f"{file}: holds something else than a dictionary of tensors; {remedy}")
    return content


def read_published(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Tensors by published name (`base.conv1.0.weight`, `loc.0.bias`, ...) from either published layout.

    Args:
        path: one file with everything, any of EResFD's five files, or their common prefix (`.../eresfd_16.pth`).

    """
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


def import_into(model: keras.Model, path: str | os.PathLike[str]) -> ImportReport:
    """Copies published EResFD weights into `model`; nothing is changed unless every tensor fits.

    Raises:
        ModelError: tensors are missing or of another shape; all of them are named.

    """
    tensors = read_published(path)
    report = ImportReport()
    values: list[tuple[Any, np.ndarray]] = []
    missing, misshaped = [], []
    for name, variable, array in _assignments(model, tensors):
        if array is None:
            missing.append(name)
        elif tuple(array.shape) != tuple(variable.shape):
            misshaped.append(
                f"{name} (expected {tuple(variable.shape)}, found {tuple(array.shape)}, in Keras' axis order)"
            )
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
