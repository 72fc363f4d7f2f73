from pathlib import Path

import keras
import numpy as np
import pytest

from lib.errors import ModelError
from lib.models import build
from lib.models.published import import_into, published_anchor_ratio, published_model, read_published
from lib.pruning.cost import zero_share
from tests.pth_files import Tensor, write_pth
from tests.shared import shared


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


def _tensors(content: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: Tensor.of(array) for name, array in content.items()}


def test_both_layouts_give_the_same_model(tmp_path: Path, rng: np.random.Generator) -> None:
    model = build("eresfd")
    content = _published_content(model, rng)
    content["loc0.weight"] = content["loc.0.weight"]  # an alias
    single = write_pth(tmp_path / "single.pth", _tensors(content))
    for part in ("base", "loc", "conf"):
        names = {n.removeprefix(f"{part}."): a for n, a in content.items() if n.startswith(f"{part}.")}
        write_pth(tmp_path / f"five.pth.{part}.pth", _tensors(names))
    for part in ("act_loc", "act_conf"):
        write_pth(tmp_path / f"five.pth.{part}.pth", {})
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
        model.set_weights([np.zeros_like(weight) for weight in weights])
        import_into(model, tmp_path / path)
        for ours, expected in zip(model.get_weights(), weights, strict=True):
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
    file = write_pth(tmp_path / "w.pth", _tensors(content))
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


def test_an_anchor_ratio_out_of_range_is_refused(tmp_path: Path) -> None:
    file = write_pth(tmp_path / "w.pth", {})
    with pytest.raises(ModelError, match="anchor_ratio, height / width, must lie in"):
        published_model(file, anchor_ratio=-1)
