import json
from pathlib import Path

import numpy as np
import pytest

from lib.detection.description import KEY, read_description, sealed
from lib.detection.formats.onnx import OPSET, OnnxNetwork, write
from lib.errors import ModelError
from tests.detectors import small_detector

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")


def test_the_ends_have_names_and_the_metadata_says_what_they_mean(tmp_path: Path) -> None:
    size_bytes = write(small_detector(), tmp_path / "detector.onnx")
    assert (tmp_path / "detector.onnx").stat().st_size == size_bytes
    session = runtime.InferenceSession(tmp_path / "detector.onnx", providers=["CPUExecutionProvider"])
    ends = {end.name: end.shape for end in (*session.get_inputs(), *session.get_outputs())}
    assert ends["image"] == ["batch", "height", "width", 3]
    assert ends["boxes"] == ["batch", "anchors", 4]
    assert ends["scores"] == ["batch", "anchors"]
    described = json.loads(session.get_modelmeta().custom_metadata_map["face_detector"])
    assert described["size"] == "any"
    assert described["anchors"]["strides"] == [4, 8]


def test_a_fixed_size_is_the_files(tmp_path: Path) -> None:
    write(small_detector(), tmp_path / "detector.onnx", (48, 64))
    network = OnnxNetwork(tmp_path / "detector.onnx", threads=1)
    assert network.size_px == (48, 64)
    boxes, scores = network(np.zeros((1, 48, 64, 3), np.float32))
    assert boxes.shape == (1, 12 * 16 + 6 * 8, 4)
    assert scores.shape == boxes.shape[:2]


def test_an_opset_that_the_runtime_does_not_know_is_a_model_error(tmp_path: Path) -> None:
    file = tmp_path / "detector.onnx"
    write(small_detector(), file, (32, 32))
    description = read_description(file.read_bytes(), file)
    made = onnx.load(file)
    assert made.opset_import[0].version == OPSET
    made.opset_import[0].version = 999
    onnx.helper.set_model_props(made, {KEY: description.to_json()})
    file.write_bytes(sealed(made.SerializeToString()))
    with pytest.raises(ModelError, match=r"detector\.onnx: ONNX Runtime .* cannot run it"):
        OnnxNetwork(file)
