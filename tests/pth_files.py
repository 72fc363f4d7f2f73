"""`.pth` files for tests, made without PyTorch."""

import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass
class Tensor:
    """A tensor as torch.save describes it: the storage's values, and a shape and strides over them."""

    storage: np.ndarray
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def of(cls, array: Any) -> "Tensor":
        values = np.asarray(array, np.float32, order="C")
        return cls(values.reshape(-1), values.shape, tuple(stride // 4 for stride in values.strides))


def pickled(content: Mapping[str, Any]) -> bytes:
    """The pickle that torch.save writes for a dictionary of tensors (and whole numbers), by hand."""

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\nq\x00"
    parts = [b"\x80\x02ccollections\nOrderedDict\n)Rq\x01("]
    for key, (name, value) in enumerate(content.items()):
        parts.append(text(name))
        if isinstance(value, int):
            parts.append(number(value))
            continue
        size = number(value.storage.size)
        storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(str(key)) + text("cpu") + size + b"tQ"
        layout = number(0) + numbers(value.shape) + numbers(value.strides)
        parts.append(rebuild + b"(" + storage + layout + b"\x89ccollections\nOrderedDict\n)RtR")
        rebuild = b"h\x00"  # remembered from the first time
    return b"".join([*parts, b"u."])


def as_checkpoint(state_dict: bytes) -> bytes:
    """The pickle of a checkpoint around that of a state dict: with a list, a fraction, and a tensor in no storage."""
    storage = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\4\0\0\0goneX\3\0\0\0cpuK\1tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0(K\1t(K\1t\x89ccollections\nOrderedDict\n)RtR"
    meta = b"X\4\0\0\0meta](K\1K\2eX\4\0\0\0rateG" + struct.pack(">d", 0.5)
    return b"\x80\x02}(X\12\0\0\0state_dict" + state_dict[2:-1] + b"X\11\0\0\0optimizer" + tensor + meta + b"u."


def write_pth(path: Path, content: Mapping[str, Any], left_out: str = "", checkpoint: bool = False) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", as_checkpoint(pickled(content)) if checkpoint else pickled(content))
        for key, (name, value) in enumerate(content.items()):
            if isinstance(value, Tensor) and name != left_out:
                archive.writestr(f"archive/data/{key}", value.storage.tobytes())
    return path
