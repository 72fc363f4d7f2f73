import numpy as np
import pytest

from lib.errors import ModelError
from lib.models import build
from lib.models.published import import_into, published_model, read_published
from lib.models.published_yunet import assignments, build_options
from tests.shared import shared


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
        build_options({"backbone.model0.conv1.weight": np.zeros((16, 3, 3, 3), np.float32)})
    missing = [name for name, _, value in assignments(build("yunet_s"), {}) if value is None]
    assert "bbox_head.multi_level_kps.2.conv2.bias" in missing
    assert not any("share_convs" in name for name in missing)
