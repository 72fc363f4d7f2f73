"""A trained detector as a SavedModel, the folder that TensorFlow Serving takes: `detector.pb`'s graph and a signature.

TensorFlow is imported inside the functions that need it.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import keras

from lib.detection.description import sealed
from lib.detection.formats.pb import INPUT, DetectionSettings, FrozenGraph, detection_graph, ends_of
from lib.errors import ModelError
from lib.models import anchors_of

FILE = "saved_model.pb"
SIGNATURE = "serving_default"


def write(
    model: keras.Model, path: str | os.PathLike[str], settings: DetectionSettings | None = None
) -> tuple[int, int]:
    """Writes a detector as a SavedModel without variables, whose signature takes and gives what `freeze` says.

    A SavedModel of this toolkit at `path` is replaced.

    Returns:
        The size in bytes of all its files, and the number of nodes in the graph.

    Raises:
        ModelError: the model is no detector, Keras runs on another backend than TensorFlow, or at `path` is something
            else.

    """
    folder = Path(path)
    if folder.exists() and not _is_ours(folder):
        raise ModelError(f"{folder}: exists and is no SavedModel of this toolkit; choose another place, or remove it")
    graph_def = detection_graph(model, settings or DetectionSettings())
    outputs, _ = ends_of(anchors_of(model))
    import tensorflow as tf
    from tensorflow.core.protobuf.meta_graph_pb2 import TensorInfo

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as aside:
        made = Path(aside) / "new"
        with tf.Graph().as_default() as graph, tf.compat.v1.Session() as session:
            tf.import_graph_def(graph_def, name="")
            ends = {name: graph.get_tensor_by_name(f"{name}:0") for name in (INPUT, *outputs)}
            infos = {
                name: TensorInfo(name=end.name, dtype=end.dtype.as_datatype_enum, tensor_shape=end.shape.as_proto())
                for name, end in ends.items()
            }
            signature = tf.compat.v1.saved_model.build_signature_def(
                {INPUT: infos.pop(INPUT)}, infos, tf.compat.v1.saved_model.PREDICT_METHOD_NAME
            )
            builder = tf.compat.v1.saved_model.Builder(str(made))
            builder.add_meta_graph_and_variables(session, ["serve"], {SIGNATURE: signature})
            builder.save()
        (made / FILE).write_bytes(sealed((made / FILE).read_bytes()))
        (made / "variables").mkdir(exist_ok=True)  # some readers look for it
        if folder.exists():
            folder.rename(Path(aside) / "old")
        made.rename(folder)
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()), len(graph_def.node)


class SavedModel(FrozenGraph):
    """A SavedModel folder that was read again; only its graph is looked at, and nothing else in the folder.

    Args:
        path: what `write` wrote.

    Raises:
        ModelError: as `FrozenGraph`.

    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not (Path(path) / FILE).is_file():
            raise ModelError(f"{path}: no SavedModel, it holds no {FILE}; expected what tools/export.py writes")
        super().__init__(Path(path) / FILE)

    @staticmethod
    def _graph_def(tf: Any, content: bytes) -> Any:
        from tensorflow.core.protobuf.saved_model_pb2 import SavedModel as Proto

        graphs = Proto.FromString(content).meta_graphs
        return graphs[0].graph_def if len(graphs) == 1 else tf.compat.v1.GraphDef()


def _is_ours(folder: Path) -> bool:
    """Whether a folder holds a SavedModel of this toolkit and not a file more."""
    files = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if not file.is_dir()]
    return files == [FILE] and b'{"face_detector": ' in (folder / FILE).read_bytes()
