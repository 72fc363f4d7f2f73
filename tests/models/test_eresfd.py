import keras
import numpy as np
import pytest

from lib.errors import ModelError
from lib.geometry.anchors import AnchorSpec
from lib.models import anchors_of, build
from lib.models.eresfd import eresfd
from tests.shared import shared

PUBLISHED = {
    "eresfd_clova": ("eresfd/eresfd_16.pth", 1.25),
    "eresfd_bfpgm_50": ("bfpgm/EResFD-50-pruned.pth", 1.0),
    "eresfd_bfpgm_original": ("bfpgm/EResFD-original.pth", 1.0),
}


@pytest.mark.parametrize(("height", "width"), [(16, 16), (64, 96), (67, 131), (130, 17)])
def test_any_size_gives_an_output_an_anchor(tiny_model: keras.Model, height: int, width: int) -> None:
    outputs = tiny_model(np.zeros((2, height, width, 3), np.float32))
    anchors = sum(rows * columns for rows, columns in AnchorSpec().grid_shapes(height, width))
    assert outputs["boxes"].shape == (2, anchors, 4)
    assert outputs["scores"].shape == (2, anchors, 2)


def test_the_model_subtracts_the_mean_itself(lively_model: keras.Model) -> None:
    grey = np.tile(np.array([123, 117, 104], np.float32), (1, 64, 64, 1))
    after_mean = keras.Model(lively_model.inputs, lively_model.get_layer("subtract_mean").output)
    assert not np.asarray(after_mean(grey)).any()


def test_mirroring_batches_does_not_mix_images(lively_model: keras.Model, rng: np.random.Generator) -> None:
    images = rng.uniform(0, 255, (3, 64, 64, 3)).astype(np.float32)
    together = lively_model(images)["boxes"]
    alone = lively_model(images[1:2])["boxes"]
    np.testing.assert_allclose(np.asarray(together)[1:2], np.asarray(alone), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ratio", [np.nan, np.inf, 0, -1, 1e30, 1e-30])
def test_anchor_ratios_that_no_face_has_are_refused(ratio: float) -> None:
    with pytest.raises(
        ModelError, match=r"cannot build eresfd: anchor_ratio, height / width, must lie in 0\.01\.\.100"
    ):
        build("eresfd", anchor_ratio=ratio)


def test_anchor_ratio_is_part_of_the_model() -> None:
    assert anchors_of(eresfd(4 / 256, anchor_ratio=1.0)).ratio == 1.0


@pytest.mark.parametrize("width_mult", [0, -0.1, 2 / 256, 0.1])
def test_impossible_widths(width_mult: float) -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        eresfd(width_mult)


@pytest.mark.parametrize("crop", ["even_256x320", "odd_251x333"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_network_equals_the_published_one(name: str, crop: str) -> None:
    weights, ratio = PUBLISHED[name]
    with np.load(shared(f"golden/{name}_{crop}.npz")) as golden:
        prefix = shared("weights") / weights
        model = build("eresfd", weights=prefix, anchor_ratio=ratio)
        outputs = model(golden["image_rgb"][None].astype(np.float32))
        assert np.abs(np.asarray(outputs["boxes"][0]) - golden["loc"]).max() <= 5e-5
        assert np.abs(np.asarray(outputs["scores"][0]) - golden["conf_logits"]).max() <= 5e-5
