from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from lib.errors import ModelError
from lib.models.backbones import BACKBONES, backbone

CHANNELS = {
    "vgg_16": (256, 512, 512),
    "resnet_v1_50": (256, 512, 1024, 2048),
    "resnet_v1_101": (256, 512, 1024, 2048),
    "MobilenetV2": (96, 96, 288, 160),
}
PREPROCESSING: dict[str, Callable[..., np.ndarray]] = {
    "vgg_16": keras.applications.vgg16.preprocess_input,
    "MobilenetV2": keras.applications.mobilenet_v2.preprocess_input,
}


@pytest.mark.parametrize("name", CHANNELS)
def test_maps_have_their_strides_and_channels_and_round_odd_sizes_up(name: str) -> None:
    image, maps = backbone(name)
    model = keras.Model(image, maps)
    for height, width in ((128, 192), (97, 131)):
        found = model(keras.KerasTensor((1, height, width, 3)))
        strides = [4 * 2**level for level in range(len(CHANNELS[name]))]
        assert [x.shape[1:] for x in found] == [
            (-(-height // stride), -(-width // stride), channels)
            for stride, channels in zip(strides, CHANNELS[name], strict=True)
        ]


@pytest.mark.parametrize(("name", "frozen"), [("vgg_16", 1), ("MobilenetV2", 2)])
def test_frozen_stages_and_locked_norms_do_not_train(name: str, frozen: int) -> None:
    model = keras.Model(*backbone(name, frozen_stages=frozen, lock_batch_norms=True))
    trained = {layer.name for layer in model.layers if layer.trainable_weights}
    assert not any(isinstance(model.get_layer(name), keras.layers.BatchNormalization) for name in trained)
    expected = {
        "vgg_16": {f"conv{stage}_{number}" for stage in (3, 4, 5) for number in (1, 2, 3)},
        "MobilenetV2": {
            f"block_{block}_{part}" for block in range(6, 17) for part in ("expand", "depthwise", "project")
        },
    }
    assert trained == expected[name]
    assert all(layer.trainable_weights for layer in keras.Model(*backbone(name)).layers if layer.weights)


@pytest.mark.parametrize("name", PREPROCESSING)
@pytest.mark.parametrize("own_mean", [True, False])
def test_published_weights_compute_what_they_were_trained_to(
    name: str, own_mean: bool, tmp_path: Path, rng: np.random.Generator
) -> None:
    facts = BACKBONES[name]
    published = facts.make(include_top=False, weights=None, **dict(facts.options))
    for layer in published.layers:  # biases and statistics that show when they are lost
        for weight in layer.weights[1:]:
            weight.assign(np.asarray(weight) + rng.uniform(0, 0.1, weight.shape))
    published.save_weights(tmp_path / "published.weights.h5")
    image = rng.uniform(0, 255, (1, 64, 96, 3)).astype(np.float32)
    image_mean = facts.mean if own_mean else (123, 116, 103)
    ours = keras.Model(*backbone(name, str(tmp_path / "published.weights.h5"), pixel_mean=image_mean))

    def outputs(model: keras.Model, names: tuple[str, str], images: np.ndarray) -> list[np.ndarray]:
        part = keras.Model(model.inputs, [model.get_layer(name).output for name in names])
        return [np.asarray(x) for x in part(images)]

    first, deep = ("Conv1_relu", "block_3_expand_relu") if name == "MobilenetV2" else ("conv1_1", "conv3_3")
    theirs = (first, deep) if name == "MobilenetV2" else ("block1_conv1", "block3_conv3")
    found = outputs(ours, (first, deep), image)
    expected = outputs(published, theirs, PREPROCESSING[name](image.copy()))
    assert all(x.std() > 0 for x in expected)
    if own_mean:
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * b.max())
    else:  # at the border, the zeros of the padding stand for another colour
        inner = (slice(None), slice(1, -1), slice(1, -1))
        np.testing.assert_allclose(found[0][inner], expected[0][inner], rtol=1e-4, atol=1e-4 * expected[0].max())


def test_absent_weights_say_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr("keras.src.applications.mobilenet_v2.file_utils.get_file", offline)
    with pytest.raises(ModelError, match=r"cannot be downloaded \(no network\).*MODEL\.backbone_weights"):
        backbone("MobilenetV2", "imagenet")
    with pytest.raises(ModelError, match=r"expected 'imagenet', 'random' or weights of .*MobileNetV2, alpha=0\.5"):
        backbone("MobilenetV2", str(tmp_path / "absent.h5"))
    (tmp_path / "text.weights.h5").write_text("no weights")
    with pytest.raises(ModelError, match=r"text\.weights\.h5: expected 'imagenet'"):
        backbone("MobilenetV2", str(tmp_path / "text.weights.h5"))
