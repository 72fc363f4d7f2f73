import os
import pickle
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from lib.errors import ModelError
from lib.models import build
from lib.models.published import import_into, published_anchor_ratio, read_pth, read_published
from lib.pruning.cost import zero_share
from tests.shared import shared


@dataclass
class _Tensor:
    """A tensor as torch.save describes it: the storage's values, and a shape and strides over them."""

    storage: np.ndarray
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def of(cls, array: Any) -> "_Tensor":
        values = np.asarray(array, np.float32, order="C")
        return cls(values.reshape(-1), values.shape, tuple(stride // 4 for stride in values.strides))


def _pickled(content: Mapping[str, Any]) -> bytes:
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


def _write_pth(path: Path, content: Mapping[str, Any], left_out: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", _pickled(content))
        for key, (name, value) in enumerate(content.items()):
            if isinstance(value, _Tensor) and name != left_out:
                archive.writestr(f"archive/data/{key}", value.storage.tobytes())
    return path


def test_tensors_come_back(tmp_path: Path, rng: np.random.Generator) -> None:
    a, b = rng.normal(size=(2, 3, 4)), rng.normal(size=(5,))
    content = {"a": _Tensor.of(a), "b": _Tensor.of(b), "scalar": _Tensor.of(3), "empty": _Tensor.of(np.zeros((0, 2)))}
    tensors = read_pth(_write_pth(tmp_path / "w.pth", content))
    np.testing.assert_array_equal(tensors["a"], a.astype(np.float32))
    np.testing.assert_array_equal(tensors["b"], b.astype(np.float32))
    assert tensors["scalar"] == 3
    assert tensors["empty"].shape == (0, 2)


def test_strided_tensor(tmp_path: Path) -> None:
    tensor = _Tensor(np.arange(6, dtype=np.float32), (2, 3), (1, 2))
    np.testing.assert_array_equal(read_pth(_write_pth(tmp_path / "w.pth", {"t": tensor}))["t"], [[0, 2, 4], [1, 3, 5]])


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


def test_tensors_that_reach_out_of_their_storage_are_refused(tmp_path: Path) -> None:
    storage = np.zeros(4, np.float32)
    for shape, strides in (((10,), (1,)), ((2, 2), (1, 5)), ((2,), (-1,)), ((2, 2), (1,))):
        with pytest.raises(ModelError, match="refused"):
            read_pth(_write_pth(tmp_path / "w.pth", {"t": _Tensor(storage, shape, strides)}))
    with pytest.raises(ModelError, match="not in the file"):
        read_pth(_write_pth(tmp_path / "w.pth", {"t": _Tensor.of(storage)}, left_out="t"))


@pytest.mark.parametrize("shape", [(10_000, 10_000), (5,)])
def test_much_out_of_little_is_refused_before_it_is_made(tmp_path: Path, shape: tuple[int, ...]) -> None:
    made = _Tensor(np.zeros(4, np.float32), shape, (0,) * len(shape))
    with pytest.raises(ModelError, match="tensors that are larger than their storages"):
        read_pth(_write_pth(tmp_path / "w.pth", {"t": made}))


def test_a_compressed_pickle_is_refused_by_its_size(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"]" * (20 << 20))
    with pytest.raises(ModelError, match=r"data\.pkl has 20,971,520 bytes"):
        read_pth(tmp_path / "w.pth")


def test_damaged_files(tmp_path: Path) -> None:
    file = _write_pth(tmp_path / "w.pth", {"t": _Tensor.of(np.zeros(1000))})
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
        read_pth(_write_pth(tmp_path / "w.pth", {"t": 3}))


def _published_content(model: keras.Model, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random tensors under the published names, shaped for `model`."""
    from lib.models.published import _assignments

    content: dict[str, np.ndarray] = {
        "base.m0.fpn.w1": rng.random((2, 9)),
        "base.conv1.1.num_batches_tracked": np.array(7),
    }
    for name, variable, _ in _assignments(model, {}):
        shape = tuple(variable.shape)
        if "[" not in name:
            shape = (shape[3], shape[2], shape[0], shape[1]) if len(shape) == 4 else shape
            content[name] = rng.random(shape)
    return content


def _tensors(content: dict[str, np.ndarray]) -> dict[str, _Tensor]:
    return {name: _Tensor.of(array) for name, array in content.items()}


def test_both_layouts_give_the_same_model(tmp_path: Path, rng: np.random.Generator) -> None:
    model = build("eresfd")
    content = _published_content(model, rng)
    content["loc0.weight"] = content["loc.0.weight"]  # an alias
    single = _write_pth(tmp_path / "single.pth", _tensors(content))
    for part in ("base", "loc", "conf"):
        names = {n.removeprefix(f"{part}."): a for n, a in content.items() if n.startswith(f"{part}.")}
        _write_pth(tmp_path / f"five.pth.{part}.pth", _tensors(names))
    for part in ("act_loc", "act_conf"):
        _write_pth(tmp_path / f"five.pth.{part}.pth", {})
    report = import_into(model, single)
    assert report.ignored == {
        "base.conv1.1.num_batches_tracked": "batch counter",
        "loc0.weight": "alias of loc.0.weight",
    }
    weights = model.get_weights()
    assert len(report.used) == len(weights)
    kernel = np.asarray(model.get_layer("stage3_block1_conv2").kernel)
    theirs = content["base.m0.b2_3.1.res_layer.3.weight"].astype(np.float32)
    assert kernel[0, 2, 5, 7] == theirs[7, 5, 0, 2]
    assert (published_anchor_ratio(single), published_anchor_ratio(tmp_path / "five.pth")) == (1.0, 1.25)
    for path in ("five.pth", "five.pth.base.pth", "five.pth.conf.pth", "five.pth.act_loc.pth"):
        other = build("eresfd")
        import_into(other, tmp_path / path)
        for ours, expected in zip(other.get_weights(), weights, strict=True):
            np.testing.assert_array_equal(ours, expected)
    (tmp_path / "five.pth.loc.pth").unlink()
    with pytest.raises(ModelError, match=r"five.pth.loc.pth: missing"):
        read_published(tmp_path / "five.pth")


def test_unfit_tensors_are_all_named_and_nothing_is_changed(tmp_path: Path, rng: np.random.Generator) -> None:
    model = build("eresfd")
    content = _published_content(model, rng)
    del content["conf.3.bias"], content["base.m0.fpn.w1"]
    content["base.conv2.0.weight"] = np.zeros((8, 8, 5, 5))
    content["loc.1.bias"] = np.full(4, np.nan)
    content["base.conv1.1.running_var"] = -content["base.conv1.1.running_var"]
    file = _write_pth(tmp_path / "w.pth", _tensors(content))
    before = model.get_weights()
    with pytest.raises(ModelError) as error:
        import_into(model, file)
    message = str(error.value)
    for part in (
        "conf.3.bias",
        "base.m0.fpn.w1",
        "base.conv2.0.weight (expected (3, 3, 8, 8)",
        "loc.1.bias (holds",
        "base.conv1.1.running_var (holds negative variances)",
    ):
        assert part in message
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize(
    ("rate", "published"), [("original", 0.09), (10, 10.24), (30, 31.60), (50, 50.37), (60, 59.87)]
)
def test_published_files_have_the_published_zeros(rate: str | int, published: float) -> None:
    name = f"EResFD-{rate}.pth" if rate == "original" else f"EResFD-{rate}-pruned.pth"
    model = build("eresfd", weights=shared(f"weights/bfpgm/{name}"))
    assert 100 * zero_share(model) == pytest.approx(published, abs=0.02)
