from pathlib import Path

import numpy as np
import pytest

from lib.errors import ModelError
from lib.models import build
from lib.models.published import import_into, published_model, read_published
from lib.models.published_yunet import assignments, build_options
from lib.models.yunet import yunet
from tests.shared import shared


def _published_kernels() -> dict[str, np.ndarray]:
    """Zeros under the published names of kernels and biases, of the shapes of a narrow YuNet's."""
    content = {}
    for name, variable, _ in assignments(yunet(stages=(2,) * 6), {}):
        if "bn" not in name:
            order = (2, 3, 0, 1) if name.endswith("conv2.weight") else (3, 2, 0, 1)  # depthwise, or not
            shape = tuple(variable.shape)
            content[name] = np.zeros([shape[axis] for axis in order] if len(shape) == 4 else shape, np.float32)
    return content


@pytest.mark.parametrize("name", ["yunet_n", "yunet_s"])
def test_every_tensor_has_its_place(name: str) -> None:
    model, report = published_model(shared(f"weights/yunet/{name}.pth"))
    assert model.name == name
    assert len(report.used) == len(model.get_weights())
    assert set(report.ignored.values()) <= {"batch counter"}


def test_the_first_kernel_is_turned_round() -> None:
    path = shared("weights/yunet/yunet_n.pth")
    theirs = read_published(path)["backbone.model0.conv1.weight"]
    model, _ = published_model(path)
    ours = np.asarray(model.get_layer("model0_conv1").kernel)
    np.testing.assert_array_equal(ours[1, 2, 0], theirs[:, 2, 1, 2])  # our red is their third channel


def test_the_folded_file_is_the_same_network(rng: np.random.Generator) -> None:
    pytest.importorskip("onnx")
    image = rng.uniform(0, 255, (1, 64, 96, 3)).astype(np.float32)
    whole, folded = (
        published_model(shared(f"weights/yunet/{file}"))[0](image) for file in ("yunet_n.pth", "yunet_n_dynamic.onnx")
    )
    for kind in ("boxes", "scores", "landmarks"):
        np.testing.assert_allclose(folded[kind], whole[kind], atol=1e-4)


def test_weights_of_another_size_are_refused_and_change_nothing() -> None:
    model = build("yunet_n")
    before = model.get_weights()
    with pytest.raises(ModelError, match=r"multi_level_share_convs.0.0.conv1.weight"):
        import_into(model, shared("weights/yunet/yunet_s.pth"))
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_what_is_lacking_is_named() -> None:
    with pytest.raises(ModelError, match=r"backbone.model1.conv2.conv1"):
        build_options({"backbone.model0.conv1.weight": np.zeros((16, 3, 3, 3), np.float32)}, "w.pth")
    missing = [name for name, _, value in assignments(build("yunet_s"), {}) if value is None]
    assert "bbox_head.multi_level_kps.2.conv2.bias" in missing
    assert not any("share_convs" in name for name in missing)


@pytest.mark.parametrize(
    ("unit", "shape", "message"),
    [
        ("model0.conv1", (), r"is of shape \(\); expected \(any, 3, 3, 3\), in PyTorch's axis order"),
        ("model0.conv1", (0, 3, 3, 3), r"is of shape \(0, 3, 3, 3\)"),
        ("model0.conv1", (300_000, 3, 3, 3), r"makes 300,000 channels; at most 8,192 are read; raise LIMITS\.max_chan"),
        ("model2.conv2.conv1", (2, 3, 1, 1), r"is of shape \(2, 3, 1, 1\); expected \(any, 2, 1, 1\)"),
    ],
)
def test_widths_that_no_network_has_are_refused_before_it_is_built(
    unit: str, shape: tuple[int, ...], message: str
) -> None:
    kernels = _published_kernels()
    assert build_options(kernels, "w.pth") == {"stages": (2,) * 6, "shared_head": True}
    kernels[f"backbone.{unit}.weight"] = np.broadcast_to(np.float32(0), shape)
    with pytest.raises(ModelError, match=rf"w\.pth: .*backbone\.{unit}\.weight {message}"):
        build_options(kernels, "w.pth")


@pytest.mark.parametrize(
    ("bias", "message"),
    [
        (np.zeros((), np.float32), r"expected \(2,\), found \(\)"),
        (np.array(["a", "b"], object), "holds object; expected float16, float32 or float64"),
        (np.zeros(2, np.complex64), "holds complex64; expected float16, float32 or float64"),
    ],
)
def test_biases_that_are_no_numbers_are_named(tmp_path: Path, bias: np.ndarray, message: str) -> None:
    onnx = pytest.importorskip("onnx")
    file, name = tmp_path / "w.onnx", "backbone.model0.conv1"
    tensors = {**_published_kernels(), f"{name}.bias": bias}
    units = [tensor.removesuffix(".weight") for tensor in tensors if tensor.endswith(".weight")]
    nodes = [onnx.helper.make_node("Conv", ["x", f"{unit}.weight", f"{unit}.bias"], [unit]) for unit in units]
    values = [onnx.numpy_helper.from_array(tensor, named) for named, tensor in tensors.items()]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph(nodes, "yunet", [], [], values)), file)
    with pytest.raises(ModelError, match=rf"w\.onnx: not the weights of .* {name}\.bias \({message}"):
        published_model(file)
