import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from lib.models.hdf5 import look_at_weights


def _packed(tmp_path: Path, arrays: dict[str, Any], how: int, **options: Any) -> tuple[int, bool]:
    with h5py.File(tmp_path / "w.h5", "w") as weights:
        for name, values in arrays.items():
            weights.create_dataset(name, data=values, **options)
    with zipfile.ZipFile(tmp_path / "a.keras", "w", how) as target:
        target.writestr("config.json", "{}" * 99)
        target.write(tmp_path / "w.h5", "model.weights.h5")
    with zipfile.ZipFile(tmp_path / "a.keras") as archive:
        return look_at_weights(archive, tmp_path / "a.keras", "model.weights.h5")


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bytes_and_what_is_not_finite_are_seen_where_they_lie(tmp_path: Path, how: int, bad: float) -> None:
    values = np.ones((5, 7), np.float32)
    arrays = {"layers/a/vars/0": values, "layers/b/vars/0": np.arange(3), "layers/b/vars/1": np.float32(2)}
    assert _packed(tmp_path, arrays, how) == (5 * 7 * 4 + 3 * 8 + 4, True)
    values[3, 2] = bad
    assert _packed(tmp_path, arrays, how) == (5 * 7 * 4 + 3 * 8 + 4, False)


@pytest.mark.parametrize("kind", ["f8", "f2", ">f4"])
def test_numbers_of_another_form_are_left_to_the_reader(tmp_path: Path, kind: str) -> None:
    assert _packed(tmp_path, {"a": np.ones(4, kind)}, 0) == (4 * np.dtype(kind).itemsize, False)


def test_what_is_announced_counts_not_what_is_stored(tmp_path: Path) -> None:
    chunked = {"chunks": (1,), "shape": (1 << 40,), "dtype": "f4"}
    for options in (chunked, {"shape": (1 << 40,), "dtype": "f4"}):
        assert _packed(tmp_path, {"a": None}, 0, **options) == (4 << 40, False)


def test_a_cut_file_is_an_error(tmp_path: Path) -> None:
    _packed(tmp_path, {"a": np.ones(4)}, 0)
    content = (tmp_path / "w.h5").read_bytes()
    for end in (0, 10, len(content) // 2):
        with zipfile.ZipFile(tmp_path / "b.keras", "w") as target:
            target.writestr("model.weights.h5", content[:end])
        with (
            zipfile.ZipFile(tmp_path / "b.keras") as archive,
            pytest.raises((OSError, RuntimeError, ValueError, KeyError)),
        ):
            look_at_weights(archive, tmp_path / "b.keras", "model.weights.h5")
