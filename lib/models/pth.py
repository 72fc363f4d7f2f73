"""PyTorch's `.pth` files without PyTorch and without unpickling.

A `.pth` file is a zip of one pickle, which describes tensors, and their raw storages. `read_pth` walks the pickle's
opcodes and builds arrays only: names in it are compared with a short list and never imported or called.
"""

import math
import os
import pickletools
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lib.errors import ConfigError, ModelError
from lib.limits import raising
from lib.models.archives import require_no_bomb

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
_MOST_DIMENSIONS = 32  # of NumPy's arrays, in all its versions
_ORDERED_DICT = "collections OrderedDict"
_REBUILD_TENSOR = "torch._utils _rebuild_tensor_v2"


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


@dataclass(frozen=True)
class _Tensor:
    """A tensor that is described; its values are read when they are needed."""

    storage: Any
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


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

    _op_binint = _op_binint1 = _op_binint2 = _op_long1 = _op_binunicode = _op_short_binunicode = _op_binfloat = _push

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

    def _op_append(self, _: Any) -> None:
        self._extend([self.stack.pop()])

    def _op_appends(self, _: Any) -> None:
        self._extend(self._pop_to_mark())

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise _RefusedError("items for something that is no list")
        self.stack[-1].extend(items)

    def _op_setitem(self, _: Any) -> None:
        key, value = self.stack[-2:]
        del self.stack[-2:]
        self._set_items([key, value])

    def _op_setitems(self, _: Any) -> None:
        self._set_items(self._pop_to_mark())

    def _set_items(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict):
            raise _RefusedError("items for something that is no dictionary")
        # Tuples of one tuple, twice each, are few bytes that take for ever to be hashed, written or compared.
        if not {type(key) for key in items[::2]} <= {str, int}:
            raise _RefusedError("a dictionary with keys that are neither names nor whole numbers")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def _op_global(self, name: str) -> None:
        module, _, attribute = name.partition(" ")
        if name in (_ORDERED_DICT, _REBUILD_TENSOR) or (module == "torch" and attribute in _STORAGE_DTYPES):
            self.stack.append(_Name(name))
        else:
            raise _RefusedError(f"the name {name.replace(' ', '.')[:80]}, which a file of weights has no use for,")

    def _op_stack_global(self, _: Any) -> None:
        module, attribute = self.stack[-2:]
        del self.stack[-2:]
        if not {type(module), type(attribute)} <= {str}:
            raise _RefusedError("a name that is no text")
        self._op_global(f"{module} {attribute}")

    def _op_reduce(self, _: Any) -> None:
        callee, arguments = self.stack[-2:]
        del self.stack[-2:]
        if callee == _Name(_ORDERED_DICT) and arguments == ():
            self.stack.append({})
        elif callee == _Name(_REBUILD_TENSOR):
            self.stack.append(_Tensor(*arguments[:4]))
        else:
            raise _RefusedError("a call")

    def _op_build(self, _: Any) -> None:
        self.stack.pop()  # a state dict's `_metadata` attribute: versions of modules, not needed

    def _op_binpersid(self, _: Any) -> None:
        kind, storage_type, key, _location, size = self.stack.pop()
        if kind != "storage" or not isinstance(storage_type, _Name):
            raise _RefusedError("a persistent object that is no storage")
        if type(key) is not str or type(size) is not int:
            raise _RefusedError("a storage whose key is no text or whose size is no whole number")
        self.stack.append(_Storage(_STORAGE_DTYPES[storage_type.name.partition(" ")[2]], key, size))

    def values(self, tensor: _Tensor) -> np.ndarray:
        storage, offset, shape, strides = tensor.storage, tensor.offset, tensor.shape, tensor.strides
        if (
            not isinstance(storage, _Storage)
            or {type(shape), type(strides)} != {tuple}
            or len(shape) != len(strides)
            or len(shape) > _MOST_DIMENSIONS
            or {type(number) for number in (offset, *shape, *strides)} != {int}
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
        if values > storage.size:  # strides of 0 make much out of little
            raise _RefusedError(f"tensors that are larger than their storages, as the one of shape {shape}")
        if self.left_bytes < 0:  # many of one storage do too
            raise _RefusedError(
                f"tensors that are larger together than the file lets expect, with the one of shape {shape}; if they "
                f"shall be, {raising('max_tensor_bytes')}"
            )
        flat = np.frombuffer(self.archive.read(member), dtype)
        view = np.lib.stride_tricks.as_strided(flat[offset:], shape, [s * dtype.itemsize for s in strides])
        return view.copy()


def read_pth(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The tensors of a PyTorch state dict, or of the one under "state_dict" in a checkpoint; nothing else is read.

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
            if isinstance(content, dict):
                content = content.get("state_dict", content)
            named = isinstance(content, dict) and all(isinstance(name, str) for name in content)
            if not named or not all(isinstance(value, _Tensor) for value in content.values()):
                raise ModelError(f"{file}: holds something else than a dictionary of tensors; {remedy}")
            return {name: reader.values(tensor) for name, tensor in content.items()}
    except _RefusedError as refusal:
        raise ModelError(f"{file}: refused, nothing in it was executed: its pickle holds {refusal}; {remedy}") from None
    except (ConfigError, ModelError):
        raise
    except Exception as error:  # a damaged file makes zip and pickle readers fail in many ways
        raise ModelError(f"{file}: damaged ({type(error).__name__}: {error}); {remedy}") from error
