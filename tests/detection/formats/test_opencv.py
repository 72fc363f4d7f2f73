from pathlib import Path

import cv2
import keras
import numpy as np
import pytest

from lib.data.images import read_rgb
from lib.detection import FaceDetector
from lib.detection.formats.opencv import write_opencv
from lib.errors import ModelError
from lib.geometry.boxes import iou_matrix
from lib.models import build
from lib.models.yunet import yunet
from lib.pruning import channel_sets, plan, shrink
from lib.pruning.masks import Masks
from tests.detectors import golden_images
from tests.networks import lively
from tests.shared import shared

onnx = pytest.importorskip("onnx", reason="writing ONNX files needs the package onnx")


def _found_by_opencv(path: Path, image_rgb: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and score [n, 5], landmarks [n, 5, 2]."""
    height, width = image_rgb.shape[:2]
    detector = cv2.FaceDetectorYN.create(str(path), "", (width, height), threshold, 0.3, 5000)
    _, rows = detector.detect(np.ascontiguousarray(image_rgb[..., ::-1]))
    found = np.zeros((0, 15), np.float32) if rows is None else np.asarray(rows)
    corners = np.concatenate([found[:, :2], found[:, :2] + found[:, 2:4], found[:, 14:]], axis=1)
    return corners, found[:, 4:14].reshape(-1, 5, 2)


def _assert_same(path: Path, model: keras.Model, image_rgb: np.ndarray, threshold: float) -> int:
    boxes, points = FaceDetector(model, landmarks=True, max_detections=5000)(image_rgb, threshold)
    theirs, their_points = _found_by_opencv(path, image_rgb, threshold)
    assert len(theirs) == len(boxes)
    if len(boxes):
        overlap = iou_matrix(theirs[:, :4].astype(np.float64), boxes[:, :4].astype(np.float64))
        twin = overlap.argmax(axis=1)
        assert overlap.max(axis=1).min() >= 0.99
        assert np.abs(theirs[:, 4] - boxes[twin, 4]).max() <= 1e-3
        assert np.abs(their_points - points[twin]).max() <= 0.1
    return len(boxes)


@pytest.mark.parametrize(("name", "rate"), [("yunet_n", 0.0), ("yunet_n", 0.125), ("yunet_s", 0.0)])
def test_opencv_finds_the_same_faces(name: str, rate: float, tmp_path: Path) -> None:
    model = build(name, weights=shared(f"weights/yunet/{name}.pth"))
    if rate:
        model = shrink(model, plan(model, rate))
    size = write_opencv(model, tmp_path / "face.onnx")
    assert size == (tmp_path / "face.onnx").stat().st_size < 350_000
    faces = sum(_assert_same(tmp_path / "face.onnx", model, read_rgb(path), 0.3) for path in golden_images()[:2])
    assert faces > (80 if rate == 0 else 5)


def test_outputs_have_opencvs_names_and_order(tmp_path: Path, rng: np.random.Generator) -> None:
    model = lively(yunet(stages=(4, 6, 8, 6, 4, 8)), rng, side_px=64)
    write_opencv(model, tmp_path / "face.onnx")
    graph = onnx.load(str(tmp_path / "face.onnx")).graph
    assert [one.name for one in graph.input] == ["input"]
    expected = [f"{kind}_{stride}" for kind in ("cls", "obj", "bbox", "kps") for stride in (8, 16, 32)]
    assert [one.name for one in graph.output] == expected
    assert {node.op_type for node in graph.node} <= {
        "Conv", "Relu", "MaxPool", "Resize", "Add", "Transpose", "Reshape", "Sigmoid"
    }  # fmt: skip
    net = cv2.dnn.readNetFromONNX(str(tmp_path / "face.onnx"))
    image = rng.integers(0, 256, (64, 96, 3), np.uint8)
    net.setInput(cv2.dnn.blobFromImage(image[..., ::-1]))
    theirs = dict(zip(expected, net.forward(expected), strict=True))
    ours = {kind: np.asarray(value[0]) for kind, value in model(image[None].astype(np.float32)).items()}
    finest = slice(0, 8 * 12)
    np.testing.assert_allclose(theirs["bbox_8"].reshape(-1, 4), ours["boxes"][finest], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(theirs["kps_8"].reshape(-1, 10), ours["landmarks"][finest], rtol=1e-3, atol=1e-3)
    objects = 1 / (1 + np.exp(-ours["scores"][finest, 1]))
    np.testing.assert_allclose(theirs["obj_8"].reshape(-1), objects, rtol=1e-3, atol=1e-3)


def test_a_set_of_one_channel(tmp_path: Path, rng: np.random.Generator) -> None:
    model = lively(yunet(stages=(4, 4, 4, 4, 4, 4), shared_head=False), rng, side_px=64)
    gone: dict[str, tuple[int, ...]] = {item.name: () for item in channel_sets(model)}
    gone["model5_conv1_point"] = (0, 1, 2)
    small = shrink(model, Masks("removable", gone))
    write_opencv(small, tmp_path / "face.onnx")
    # Whole multiples of 32: cells in the padding, which OpenCV keeps and FaceDetector cuts off, find faces in noise.
    assert _assert_same(tmp_path / "face.onnx", small, rng.integers(0, 256, (64, 96, 3), np.uint8), 0.3)


def test_other_models_and_names_are_refused(tiny_model: keras.Model, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no YuNet"):
        write_opencv(tiny_model, tmp_path / "face.onnx")
    with pytest.raises(ModelError, match=r"ending in \.onnx"):
        write_opencv(tiny_model, tmp_path / "face.pb")
    assert not list(tmp_path.iterdir())
