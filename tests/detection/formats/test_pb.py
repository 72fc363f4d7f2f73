import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from lib.arrays import FloatArray
from lib.data.images import read_rgb
from lib.detection import FaceDetector
from lib.detection.formats.keras import KerasNetwork
from lib.detection.formats.operators import OF_DETECTORS
from lib.detection.formats.pb import OUTPUTS, DetectionSettings, FrozenGraph, freeze
from lib.errors import ConfigError, ModelError
from lib.geometry.anchors import AnchorSpec
from lib.models import save
from tests.detectors import golden_images, published_detector, random_dsfd, small_detector, small_detector_of
from tests.matching import unmatched
from tests.networks import lively

tf = pytest.importorskip("tensorflow")


def random_detector() -> keras.Model:
    return lively(small_detector(), np.random.default_rng(0))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A random detector as .keras and .pb."""
    folder = tmp_path_factory.mktemp("random")
    model = random_detector()
    save(model, folder / "detector.keras")
    freeze(model, folder / "detector.pb")
    return folder / "detector.keras", folder / "detector.pb"


@pytest.fixture(scope="module")
def original(files: tuple[Path, Path]) -> FaceDetector:
    return FaceDetector(files[0])


@pytest.fixture(scope="module")
def graph(files: tuple[Path, Path]) -> FrozenGraph:
    return FrozenGraph(files[1])


@pytest.fixture(scope="module")
def frozen(files: tuple[Path, Path]) -> FaceDetector:
    return FaceDetector(files[1])


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """An image with structure at several scales."""
    random = np.random.default_rng(seed)
    layers = [
        np.kron(random.uniform(0, 85, (-(-height // s), -(-width // s), 3)), np.ones((s, s, 1))) for s in (1, 7, 32)
    ]
    return np.sum([layer[:height, :width] for layer in layers], axis=0).astype(np.uint8)


def as_detections(outputs: dict[str, NDArray[Any]], index: int, image: NDArray[np.uint8]) -> FloatArray:
    """[n, 5] x1, y1, x2, y2 in pixels and score, of one image of the graph's outputs."""
    count, (height, width) = outputs["num_detections"][index], image.shape[:2]
    boxes = outputs["boxes"][index, :count][:, [1, 0, 3, 2]] * [width, height, width, height]
    return np.column_stack([boxes, outputs["scores"][index, :count]])


@pytest.mark.parametrize(("height", "width"), [(16, 16), (64, 96), (131, 97), (33, 250)])
def test_random_detector_finds_the_same_frozen(
    original: FaceDetector, frozen: FaceDetector, graph: FrozenGraph, height: int, width: int
) -> None:
    image = noise(height, width)
    expected = original(image, 0.05)
    assert len(expected) > 0
    assert unmatched(frozen(image, 0.05), expected) == []
    assert unmatched(as_detections(graph.detect(image[None]), 0, image), expected) == []
    assert unmatched(frozen(image, 0.7), original(image, 0.7)) == []


def test_detector_in_memory_finds_the_same(frozen: FaceDetector) -> None:
    image = noise(120, 90)
    assert unmatched(frozen(image, 0.1), FaceDetector(random_detector())(image, 0.1)) == []


def test_batch_gives_each_image_its_own_detections(graph: FrozenGraph) -> None:
    images = np.stack([noise(75, 110, seed=1), np.zeros((75, 110, 3), np.uint8), noise(75, 110, seed=2)])
    together = graph.detect(images)
    for index, image in enumerate(images):
        alone = graph.detect(image[None])
        assert unmatched(as_detections(together, index, image), as_detections(alone, 0, image)) == []


def test_outputs_are_padded_with_zeros(graph: FrozenGraph) -> None:
    outputs = graph.detect(noise(16, 16)[None])
    count = outputs["num_detections"][0]
    assert 0 < count <= 20  # anchors of a 16x16 image: 16 + 4
    assert {name: (values.shape, values.dtype.name) for name, values in outputs.items()} == {
        "boxes": ((1, 750, 4), "float32"),
        "scores": ((1, 750), "float32"),
        "labels": ((1, 750), "int32"),
        "num_detections": ((1,), "int32"),
    }
    assert (outputs["labels"][0, :count] == 1).all()
    assert not any(outputs[name][0, count:].any() for name in ("boxes", "scores", "labels"))
    assert (np.diff(outputs["scores"][0, :count]) <= 0).all()


def test_equal_scores_are_kept_in_the_anchors_order(tmp_path: Path) -> None:
    model = random_detector()
    for layer in model.layers:
        if layer.name.startswith("head") and layer.weights:
            layer.set_weights([np.zeros(weight.shape) for weight in layer.weights])
    freeze(model, tmp_path / "flat.pb")
    image = noise(70, 70)
    expected = FaceDetector(model)(image, 0.05)
    assert (expected[:, 4] == 0.5).all()
    found = as_detections(FrozenGraph(tmp_path / "flat.pb").detect(image[None]), 0, image)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_settings_are_frozen_and_used(tmp_path: Path) -> None:
    settings = DetectionSettings(score_threshold=0.4, iou_threshold=0.6, max_candidates=40, max_detections=7)
    model = random_detector()
    freeze(model, tmp_path / "few.pb", settings)
    image = noise(96, 96)
    outputs = FrozenGraph(tmp_path / "few.pb").detect(image[None])
    assert outputs["boxes"].shape == (1, 7, 4)
    frozen = FaceDetector(tmp_path / "few.pb")
    assert (frozen.iou_threshold, frozen.max_detections) == (0.6, 7)
    assert len(frozen.candidates(image, 0.0)[0]) == 40
    expected = FaceDetector(model, iou_threshold=0.6, max_detections=7)(image, 0.4)
    assert unmatched(as_detections(outputs, 0, image), expected) == []
    assert FaceDetector(tmp_path / "few.pb", 0.2, 3).max_detections == 3


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    model = random_detector()
    files = [tmp_path / f"{number}.pb" for number in range(3)]
    for file in files:
        freeze(model, file)
    assert files[0].read_bytes() == files[1].read_bytes() == files[2].read_bytes()


def test_graph_holds_inference_only(files: tuple[Path, Path]) -> None:
    graph_def = tf.compat.v1.GraphDef.FromString(files[1].read_bytes())
    operations = {node.op for node in graph_def.node}
    unwanted = {op for op in operations if "Variable" in op or "BatchNorm" in op or "Gradient" in op or "Apply" in op}
    assert unwanted == set()
    assert len(graph_def.library.function) == 0
    assert [node.name for node in graph_def.node if node.op == "Placeholder"] == ["image"]
    assert {*OUTPUTS} <= {node.name for node in graph_def.node}


def test_tensorflow_alone_can_load_it(files: tuple[Path, Path], original: FaceDetector, tmp_path: Path) -> None:
    image = noise(50, 60)
    np.save(tmp_path / "image.npy", image)
    script = """
import sys
import numpy as np
import tensorflow as tf

graph_def = tf.compat.v1.GraphDef.FromString(open(sys.argv[1], "rb").read())
graph = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(graph_def, name=""), [])
outputs = {name: f"{name}:0" for name in ("boxes", "scores", "labels", "num_detections")}
detect = graph.prune("image:0", outputs)
image = np.load(sys.argv[2])
found = detect(tf.constant(image[None], tf.float32))
assert not any(name == "lib" or name.startswith("lib.") for name in sys.modules)
np.savez(sys.argv[3], **{name: value.numpy() for name, value in found.items()})
"""
    arguments = [files[1], tmp_path / "image.npy", tmp_path / "found.npz"]
    subprocess.run([sys.executable, "-c", script, *map(str, arguments)], check=True, cwd=tmp_path)
    found = as_detections(dict(np.load(tmp_path / "found.npz")), 0, image)
    assert unmatched(found, original(image, 0.05)) == []


@pytest.mark.parametrize(
    "weights",
    [
        "eresfd/eresfd_16.pth",
        pytest.param("bfpgm/EResFD-original.pth", marks=pytest.mark.slow),
        pytest.param("bfpgm/EResFD-50-pruned.pth", marks=pytest.mark.slow),
    ],
)
def test_published_weights_find_the_same_frozen(weights: str, tmp_path: Path) -> None:
    model = published_detector(weights)
    freeze(model, tmp_path / "detector.pb")
    graph_def = tf.compat.v1.GraphDef.FromString((tmp_path / "detector.pb").read_bytes())
    assert {node.op for node in graph_def.node} <= OF_DETECTORS
    keras_detector, frozen_detector = FaceDetector(model), FaceDetector(tmp_path / "detector.pb")
    graph = frozen_detector.network
    assert isinstance(graph, FrozenGraph)
    for path in golden_images()[:2]:
        image = read_rgb(path)
        expected = keras_detector(image, 0.05)
        assert len(expected) > 100
        for found in (as_detections(graph.detect(image[None]), 0, image), frozen_detector(image, 0.05)):
            assert unmatched(found, expected, most=keras_detector.max_detections) == []


def test_dsfd_is_frozen_without_its_first_shot_and_finds_the_same(tmp_path: Path) -> None:
    model = random_dsfd()
    freeze(model, tmp_path / "dsfd.pb")
    graph_def = tf.compat.v1.GraphDef.FromString((tmp_path / "dsfd.pb").read_bytes())
    assert {node.op for node in graph_def.node} <= OF_DETECTORS
    assert not graph_def.library.function
    kernels = [
        tuple(dim.size for dim in node.attr["value"].tensor.tensor_shape.dim)
        for node in graph_def.node
        if node.op == "Const" and len(node.attr["value"].tensor.tensor_shape.dim) == 4
    ]
    assert kernels.count((3, 3, 8, 2)) == 5  # the scores of the enhanced maps but the finest, all of 8 channels
    assert not [shape for shape in kernels if shape[:2] == (3, 3) and shape[2:] in ((160, 2), (256, 2), (96, 4))]
    original, frozen = FaceDetector(model), FaceDetector(tmp_path / "dsfd.pb")
    image = noise(131, 97)
    expected = original(image, 0.3)
    assert len(expected) > 10
    assert unmatched(frozen(image, 0.3), expected) == []


def test_several_anchors_a_cell_in_the_code_of_corners_are_frozen_too(tmp_path: Path) -> None:
    anchors = AnchorSpec((4, 8), (16, 32), ratio=1.5, scales=(1.0, 0.5), code="corners")
    model = lively(small_detector(anchors=anchors), np.random.default_rng(0))
    freeze(model, tmp_path / "several.pb")
    image = noise(75, 110)
    expected = FaceDetector(model)(image, 0.3)
    assert len(expected) > 10
    assert unmatched(FaceDetector(tmp_path / "several.pb")(image, 0.3), expected) == []


def test_a_network_of_another_precision_is_frozen_too(tmp_path: Path) -> None:
    model = small_detector_of("bfloat16")
    freeze(model, tmp_path / "a.pb")
    (_, found), (_, expected) = (
        network.candidates(noise(48, 64)[None], 0.0)[0]
        for network in (FrozenGraph(tmp_path / "a.pb"), KerasNetwork(model))
    )
    np.testing.assert_allclose(np.sort(found), np.sort(expected), atol=1e-5)


def test_unfit_settings_are_refused() -> None:
    cases: tuple[dict[str, Any], ...] = (
        {"score_threshold": 1.5},
        {"iou_threshold": -0.1},
        {"max_detections": 0},
        {"max_candidates": 0},
    )
    for unfit in cases:
        with pytest.raises(ConfigError, match=next(iter(unfit))):
            DetectionSettings(**unfit)


def test_file_that_is_no_graph_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"missing\.pb: no such file"):
        FaceDetector(tmp_path / "missing.pb")
    (tmp_path / "text.pb").write_text("this is no graph")
    with pytest.raises(ModelError, match=r"text\.pb"):
        FaceDetector(tmp_path / "text.pb")
    (tmp_path / "empty.pb").write_bytes(b"")
    with pytest.raises(ModelError, match=r"empty\.pb.*lacks image"):
        FaceDetector(tmp_path / "empty.pb")


def test_truncated_graph_is_named(files: tuple[Path, Path], tmp_path: Path) -> None:
    content = files[1].read_bytes()
    (tmp_path / "half.pb").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match=r"half\.pb"):
        FaceDetector(tmp_path / "half.pb")


@pytest.mark.parametrize(
    "bad", [{"iou_threshold": float("nan")}, {"iou_threshold": 2}, {"max_detections": 0}, {"max_detections": 1 << 31}]
)
def test_unfit_thresholds_are_refused(files: tuple[Path, Path], bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(bad))} must"):
        FaceDetector(files[1], **bad)


@pytest.mark.parametrize("threshold", [float("nan"), -1, 2])
def test_unfit_score_thresholds_are_refused(frozen: FaceDetector, threshold: float) -> None:
    with pytest.raises(ConfigError, match=r"score_threshold must lie in 0\.\.1"):
        frozen(noise(64, 64), threshold)
