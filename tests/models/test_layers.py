import keras
import numpy as np
import pytest

from lib.anchors import AnchorSpec
from lib.models.layers import ConcatenateAnchors, MaxoutBackground, WeightedFusion

LAYERS = [WeightedFusion(), MaxoutBackground(), ConcatenateAnchors(AnchorSpec(ratio=1.0).to_dict())]


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
