"""Activations of a whole walk: in memory as far as it goes, beyond that in files."""

from pathlib import Path
from typing import Any

import numpy as np

from lib.arrays import FloatArray

HELD_BYTES = 400 << 20  # of activations in memory; more of them wait in files


class Held:
    """Activations by key: in memory up to a limit, beyond it in files."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bytes, self.peak = folder, 0, 0
        self.arrays: dict[tuple[str, int, int], Any] = {}
        self.files = 0

    def put(self, key: tuple[str, int, int], value: Any) -> None:
        array = np.asarray(value)
        if self.bytes + array.nbytes > HELD_BYTES:
            self.files += 1
            path = self.folder / f"{self.files}.npy"
            # NumPy's files know no bfloat16.
            np.save(path, array.astype(np.float32) if array.dtype.kind == "V" else array)
            self.arrays[key] = path
            return
        self.arrays[key] = array
        self.bytes += array.nbytes
        self.note(0)

    def get(self, key: tuple[str, int, int]) -> FloatArray:
        value = self.arrays[key]
        return np.load(value) if isinstance(value, Path) else value

    def drop(self, key: tuple[str, int, int]) -> None:
        value = self.arrays.pop(key, None)
        if isinstance(value, Path):
            value.unlink()
        elif value is not None:
            self.bytes -= value.nbytes

    def note(self, further: int) -> None:
        self.peak = max(self.peak, self.bytes + further)
