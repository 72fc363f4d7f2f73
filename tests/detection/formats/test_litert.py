import json
from pathlib import Path

import keras
import numpy as np
import pytest
from ai_edge_litert.tools import flatbuffer_utils

from lib.detection.formats.litert import LiteRTModel, LiteRTNetwork, write
from lib.errors import ModelError
from tests.detectors import small_detector
from tests.networks import lively


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[keras.Model, Path, int]:
    model = lively(small_detector(channels=8), np.random.default_rng(0))
    path = tmp_path_factory.mktemp("litert") / "detector.tflite"
    return model, path, write(model, path, (96, 128))


def test_litert_computes_what_keras_computes(exported: tuple[keras.Model, Path, int], rng: np.random.Generator) -> None:
    model, path, _ = exported
    image = rng.uniform(0, 255, (1, 96, 128, 3)).astype(np.float32)
    expected = model(image, training=False)
    outputs = LiteRTModel(path)(image)
    np.testing.assert_allclose(outputs["boxes"], expected["boxes"], atol=1e-4)
    np.testing.assert_allclose(outputs["scores"], keras.ops.softmax(expected["scores"])[..., 1], atol=1e-5)
    assert np.ptp(outputs["scores"]) > 0.1


def test_the_size_in_bytes_is_the_files(exported: tuple[keras.Model, Path, int]) -> None:
    assert exported[1].stat().st_size == exported[2]


def test_an_image_of_another_size_is_refused(exported: tuple[keras.Model, Path, int]) -> None:
    litert = LiteRTModel(exported[1])
    assert (litert.height_px, litert.width_px) == (96, 128)
    with pytest.raises(ValueError, match="96, 128"):
        litert(np.zeros((1, 128, 96, 3), np.uint8))


def test_what_is_no_litert_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        LiteRTModel(tmp_path / "absent.tflite")
    (tmp_path / "text.tflite").write_text("no model")
    with pytest.raises(ModelError, match="no LiteRT model"):
        LiteRTModel(tmp_path / "text.tflite")


def test_what_cannot_be_exported_is_refused(tmp_path: Path, tiny_model: keras.Model) -> None:
    with pytest.raises(ModelError, match=r"ending in \.tflite"):
        write(tiny_model, tmp_path / "detector.lite", (96, 96))
    with pytest.raises(ModelError, match="16-bit activations are 10 to 20 times slower"):
        write(tiny_model, tmp_path / "detector.tflite", (96, 96), "int16")
    image = keras.Input((None, None, 3))
    with pytest.raises(ModelError, match="no face detector"):
        write(keras.Model(image, keras.layers.ReLU()(image)), tmp_path / "detector.tflite", (96, 96))
    assert not list(tmp_path.iterdir())


def test_the_metadata_is_where_litert_keeps_it(exported: tuple[keras.Model, Path, int]) -> None:
    model = flatbuffer_utils.read_model(str(exported[1]))
    (entry,) = [entry for entry in model.metadata if entry.name == b"face_detector"]
    described = json.loads(bytes(model.buffers[entry.buffer].data))
    assert described["size"] == [96, 128]
    assert LiteRTNetwork(exported[1]).description.precision == described["precision"] == "float32"
