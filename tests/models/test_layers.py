import keras
import numpy as np
import pytest

from lib.geometry.anchors import AnchorSpec
from lib.models.layers import (
    ConcatenateAnchors,
    CroppedMultiply,
    CropToCells,
    L2Normalization,
    MaxoutBackground,
    PadToMultiple,
    WeightedFusion,
)

LAYERS = [
    WeightedFusion(),
    MaxoutBackground(),
    ConcatenateAnchors(AnchorSpec(ratio=1.0).to_dict()),
    ConcatenateAnchors(AnchorSpec(scales=(1.0, 0.5), code="corners").to_dict()),
    L2Normalization(8.0),
    CroppedMultiply(),
    PadToMultiple(32),
    CropToCells(8),
]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_config_round_trip(layer: keras.layers.Layer) -> None:
    again = keras.layers.deserialize(keras.layers.serialize(layer))
    assert again.get_config() == layer.get_config()
    assert type(again) is type(layer)


def test_fusion_equals_its_formula_and_crops(rng: np.random.Generator) -> None:
    a, b = rng.normal(size=(2, 5, 7, 3)).astype(np.float32), rng.normal(size=(2, 6, 8, 3)).astype(np.float32)
    layer = WeightedFusion()
    layer.build([a.shape, b.shape])
    layer.fusion_weight.assign([0.8, -0.3])
    w = np.array([0.8, 0.0])
    w = w / (w.sum() + 1e-4)
    expected = (w[0] * a + w[1] * b[:, :5, :7]) / (w.sum() + 1e-4)
    np.testing.assert_allclose(np.asarray(layer([a, b])), expected, rtol=1e-5, atol=1e-6)


def test_fusion_refuses_other_channels() -> None:
    with pytest.raises(ValueError, match="same channels"):
        WeightedFusion()([keras.Input((4, 4, 3)), keras.Input((4, 4, 5))])


def test_maxout_takes_the_largest_background() -> None:
    logits = np.array([[1, 5, 3, 2], [-1, -2, -3, 9]], np.float32)
    np.testing.assert_array_equal(np.asarray(MaxoutBackground()(logits)), [[5, 2], [-1, 9]])


def test_concatenation_needs_a_level_a_stride() -> None:
    with pytest.raises(ValueError, match="6 levels"):
        ConcatenateAnchors(AnchorSpec().to_dict())([keras.Input((4, 4))])


def test_anchors_saved_before_there_were_scales_and_codes_are_read() -> None:
    old = {"strides": [4, 8, 16, 32, 64, 128], "sizes": [16, 32, 64, 128, 256, 512], "ratio": 1.0}
    layer = ConcatenateAnchors.from_config({"name": "boxes", "anchors": old})
    assert layer.anchor_spec == AnchorSpec(ratio=1.0)


def test_l2_normalization_equals_its_formula(rng: np.random.Generator) -> None:
    x = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    x[0, 1, 2] = 0
    layer = L2Normalization(8)
    layer.build(x.shape)
    np.testing.assert_array_equal(np.asarray(layer.scale), np.full(5, 8))
    layer.scale.assign([1, 2, 3, 4, 5])
    norm = np.sqrt((x.astype(np.float64) ** 2).sum(axis=-1, keepdims=True))
    expected = x / np.where(norm > 0, norm, 1) * [1, 2, 3, 4, 5]
    found = np.asarray(layer(x))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert not found[0, 1, 2].any()
    assert layer.compute_output_shape(x.shape) == x.shape


@pytest.mark.parametrize("known", [True, False])
def test_product_equals_its_formula_and_crops(rng: np.random.Generator, known: bool) -> None:
    a, b = rng.normal(size=(2, 5, 7, 3)).astype(np.float32), rng.normal(size=(2, 6, 8, 3)).astype(np.float32)
    inputs = [keras.Input(x.shape[1:] if known else (None, None, 3)) for x in (a, b)]
    model = keras.Model(inputs, CroppedMultiply()(inputs))
    assert model.output.shape == (None, *((5, 7) if known else (None, None)), 3)
    np.testing.assert_array_equal(np.asarray(model([a, b])), a * b[:, :5, :7])


def test_product_refuses_other_channels() -> None:
    with pytest.raises(ValueError, match="same channels"):
        CroppedMultiply()([keras.Input((4, 4, 3)), keras.Input((4, 4, 5))])


@pytest.mark.parametrize("known", [True, False])
def test_padding_and_cropping_give_whole_cells(rng: np.random.Generator, known: bool) -> None:
    image = rng.normal(size=(2, 9, 16, 3)).astype(np.float32)
    given = keras.Input(image.shape[1:] if known else (None, None, 3))
    padded = PadToMultiple(8)(given)
    cells = CropToCells(4)([keras.layers.AveragePooling2D(4)(padded), given])
    model = keras.Model(given, [padded, cells])
    assert [output.shape for output in model.outputs] == (
        [(None, 16, 16, 3), (None, 3, 4, 3)] if known else [(None, None, None, 3)] * 2
    )
    large, small = (np.asarray(output) for output in model(image))
    np.testing.assert_array_equal(large, np.pad(image, ((0, 0), (0, 7), (0, 0), (0, 0))))
    np.testing.assert_allclose(small[:, 0, 0], image[:, :4, :4].mean(axis=(1, 2)), rtol=1e-5)
    assert small.shape == (2, 3, 4, 3)
