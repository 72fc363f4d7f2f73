import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lib.errors import ConfigError, ModelError
from lib.limits import allowing
from lib.models.pth import read_pth
from tests.pth_files import Tensor, write_pth


def test_tensors_come_back(tmp_path: Path, rng: np.random.Generator) -> None:
    a, b = rng.normal(size=(2, 3, 4)), rng.normal(size=(5,))
    content = {"a": Tensor.of(a), "b": Tensor.of(b), "scalar": Tensor.of(3), "empty": Tensor.of(np.zeros((0, 2)))}
    tensors = read_pth(write_pth(tmp_path / "w.pth", content))
    np.testing.assert_array_equal(tensors["a"], a.astype(np.float32))
    np.testing.assert_array_equal(tensors["b"], b.astype(np.float32))
    assert tensors["scalar"] == 3
    assert tensors["empty"].shape == (0, 2)


def test_strided_tensor(tmp_path: Path) -> None:
    tensor = Tensor(np.arange(6, dtype=np.float32), (2, 3), (1, 2))
    np.testing.assert_array_equal(read_pth(write_pth(tmp_path / "w.pth", {"t": tensor}))["t"], [[0, 2, 4], [1, 3, 5]])


def test_of_a_checkpoint_the_state_dict_alone_is_read(tmp_path: Path) -> None:
    file = write_pth(tmp_path / "w.pth", {"a": Tensor.of([1, 2])}, checkpoint=True)
    tensors = read_pth(file)
    assert list(tensors) == ["a"]
    np.testing.assert_array_equal(tensors["a"], [1, 2])


class _Malicious:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_malicious_pickles_are_refused_and_not_executed(tmp_path: Path, protocol: int) -> None:
    trap = tmp_path / "executed"
    file = tmp_path / "evil.pth"
    for content in (
        {"w": _Malicious(os.mkdir, str(trap))},
        {"w": _Malicious(eval, f"open({str(trap)!r}, 'w')")},
    ):
        data = pickle.dumps(content, protocol)
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("archive/data.pkl", data)
        with pytest.raises(ModelError, match="refused, nothing in it was executed") as error:
            read_pth(file)
        assert str(file) in str(error.value)
        assert not trap.exists()


@pytest.mark.parametrize(
    "opcodes",
    [
        b"cos\nsystem\n(S'true'\ntR.",  # GLOBAL and REDUCE
        b"(S'true'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'true'\no.",  # OBJ
        b"\x80\x02cos\nsystem\n)\x81.",  # NEWOBJ
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",  # the right name, called wrongly
        b"\x80\x02ccollections\nOrderedDict\n(K\x01tR.",  # likewise
        b"\x80\x02}q\x00h\x05.",  # a memo that was never written
        b"\x80\x02.",  # nothing on the stack
        b"\x80\x02}",  # no end
        b"",
    ],
)
def test_hostile_and_broken_opcodes(tmp_path: Path, opcodes: bytes) -> None:
    file = tmp_path / "evil.pth"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", opcodes)
    with pytest.raises(ModelError):
        read_pth(file)


def _nested(depth: int) -> bytes:
    """Opcodes of a tuple that holds one tuple twice, and so on: 2^depth of them for what looks at each."""
    return b")" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(depth))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (b"}(", b"K\x01u.", "keys that are neither names nor whole numbers"),
        (b"}", b"K\x01s.", "keys that are neither names nor whole numbers"),
        (b"(X\7\0\0\0storagectorch\nFloatStorage\n", b"X\3\0\0\0cpuK\1tQ.", "a storage whose key is no text"),
        (b"X\5\0\0\0torch", b"\x93.", "a name that is no text"),
    ],
)
def test_nested_tuples_are_neither_hashed_nor_written(
    tmp_path: Path, before: bytes, after: bytes, message: str
) -> None:
    file = tmp_path / "evil.pth"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + before + _nested(22) + after)
    with pytest.raises(ModelError, match=message):
        read_pth(file)


@pytest.mark.parametrize("numbers", [_nested(8) + _nested(8) + b"\x86", b"(" + 40 * b"K\1" + b"t", b"]"])
def test_shapes_are_few_whole_numbers(tmp_path: Path, numbers: bytes) -> None:
    storage = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuK\1tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0" + numbers + numbers + b"tR"
    with zipfile.ZipFile(tmp_path / "evil.pth", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}X\1\0\0\0w" + tensor + b"s.")
        archive.writestr("archive/data/0", bytes(4))
    with pytest.raises(ModelError, match="a tensor without a valid storage, shape or strides"):
        read_pth(tmp_path / "evil.pth")


def test_tensors_that_reach_out_of_their_storage_are_refused(tmp_path: Path) -> None:
    storage = np.zeros(4, np.float32)
    for shape, strides in (((10,), (1,)), ((2, 2), (1, 5)), ((2,), (-1,)), ((2, 2), (1,))):
        with pytest.raises(ModelError, match="refused"):
            read_pth(write_pth(tmp_path / "w.pth", {"t": Tensor(storage, shape, strides)}))
    with pytest.raises(ModelError, match="not in the file"):
        read_pth(write_pth(tmp_path / "w.pth", {"t": Tensor.of(storage)}, left_out="t"))


@pytest.mark.parametrize("shape", [(10_000, 10_000), (5,)])
def test_much_out_of_little_is_refused_before_it_is_made(tmp_path: Path, shape: tuple[int, ...]) -> None:
    made = Tensor(np.zeros(4, np.float32), shape, (0,) * len(shape))
    with pytest.raises(ModelError, match="tensors that are larger than their storages"):
        read_pth(write_pth(tmp_path / "w.pth", {"t": made}))


def test_the_bytes_of_all_tensors_together_are_a_setting(tmp_path: Path) -> None:
    plain = write_pth(tmp_path / "w.pth", {f"t{i}": Tensor.of(np.zeros(1 << 18)) for i in range(9)})
    packed = tmp_path / "packed.pth"
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with allowing(max_tensor_bytes=8 << 20):
        assert len(read_pth(plain)) == 9  # four times the file is free
        with pytest.raises(ModelError, match=r"larger together .* raise LIMITS\.max_tensor_bytes in the config"):
            read_pth(packed)
    with allowing(max_tensor_bytes=9 << 20):
        assert len(read_pth(packed)) == 9


def test_a_limit_that_is_no_number_is_not_called_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_pth(tmp_path / "w.pth", {"t": Tensor.of(np.zeros(4))})
    monkeypatch.setenv("FACE_PRUNING_MAX_TENSOR_BYTES", "much")
    with pytest.raises(ConfigError, match="FACE_PRUNING_MAX_TENSOR_BYTES = 'much' in the environment"):
        read_pth(file)


def test_a_compressed_pickle_is_refused_by_its_size(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"]" * (20 << 20))
    with pytest.raises(ModelError, match=r"data\.pkl has 20,971,520 bytes"):
        read_pth(tmp_path / "w.pth")


def test_damaged_files(tmp_path: Path) -> None:
    file = write_pth(tmp_path / "w.pth", {"t": Tensor.of(np.zeros(1000))})
    data = file.read_bytes()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 0xFF  # inside the stored tensor: the archive's checksum notices
    for content, message in ((data[:500], "not a zip"), (b"", "not a zip"), (bytes(flipped), "damaged")):
        file.write_bytes(content)
        with pytest.raises(ModelError, match=message):
            read_pth(file)
    with pytest.raises(ModelError, match="no such file"):
        read_pth(tmp_path / "absent.pth")
    with pytest.raises(ModelError, match="something else than a dictionary of tensors"):
        read_pth(write_pth(tmp_path / "w.pth", {"t": 3}))
