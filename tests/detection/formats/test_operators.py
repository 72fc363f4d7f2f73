from pathlib import Path
from typing import Any

import pytest

from lib.detection import FaceDetector
from lib.detection.description import sealed
from lib.detection.formats.operators import OF_DETECTORS
from lib.detection.formats.pb import SETTINGS, DetectionSettings, detection_graph, freeze
from lib.errors import ModelError
from tests.detectors import small_detector

tf = pytest.importorskip("tensorflow")


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("frozen") / "detector.pb"
    freeze(small_detector(), file)
    return file


def _graph(file: Path) -> Any:
    graph = tf.compat.v1.GraphDef()
    graph.ParseFromString(file.read_bytes())
    return graph


def test_the_list_of_operators_is_what_is_emitted(frozen: Path) -> None:
    """And of an EResFD and a DSFD, where these are frozen in test_pb.py."""
    graph = _graph(frozen)
    assert {node.op for node in graph.node} <= OF_DETECTORS
    assert not graph.library.function


# Where a file would be written, or read from.
def _writes(target: Path) -> list[Any]:
    with tf.Graph().as_default() as graph:
        tf.io.write_file(str(target), "executed")
        tf.io.read_file(str(target))
        tf.io.matching_files(f"{target.parent}/*")
        tf.print("executed", output_stream=f"file://{target}")
    return list(graph.as_graph_def().node)


@pytest.mark.parametrize("operator", ["WriteFile", "ReadFile", "MatchingFiles", "PrintV2"])
def test_an_operator_that_does_more_than_compute_is_refused_by_name(
    frozen: Path, tmp_path: Path, operator: str
) -> None:
    graph = _graph(frozen)
    added = [node for node in _writes(tmp_path / "target") if node.op in (operator, "Const", "StringFormat")]
    for node in added:
        node.name = f"detector/{node.name}"
        node.input[:] = [f"detector/{name}" for name in node.input]
    graph.node.extend(added)
    (danger,) = (node.name for node in added if node.op == operator)
    for node in graph.node:
        if node.name == "scores":
            node.input.append(f"^{danger}")
    (tmp_path / "edited.pb").write_bytes(graph.SerializeToString())
    with pytest.raises(ModelError, match=rf"refused, nothing in it was executed: it holds .*{operator} \(detector/"):
        FaceDetector(tmp_path / "edited.pb")
    assert [path.name for path in tmp_path.iterdir()] == ["edited.pb"]


def test_functions_and_wrong_settings_are_refused(frozen: Path, tmp_path: Path) -> None:
    graph = _graph(frozen)
    graph.library.function.add().signature.name = "callback"
    (tmp_path / "a.pb").write_bytes(graph.SerializeToString())
    with pytest.raises(ModelError, match="refused, nothing in it was executed: it holds callback"):
        FaceDetector(tmp_path / "a.pb")
    graph = detection_graph(small_detector(), DetectionSettings())
    for content in (b"{", b"[]", b'{"iou_threshold": NaN}', b'{"max_detections": 3e9}'):
        for node in graph.node:
            if node.name == SETTINGS:
                node.attr["value"].tensor.string_val[0] = content
        (tmp_path / "b.pb").write_bytes(sealed(graph.SerializeToString()))
        with pytest.raises(ModelError, match=r"b\.pb: damaged, or edited"):
            FaceDetector(tmp_path / "b.pb")
