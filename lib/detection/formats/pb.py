"""A trained detector as one frozen TensorFlow graph, `detector.pb`, and the way back: image in, face boxes out.

TensorFlow is imported inside the functions that need it, so that everything else runs on other backends.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from lib.arrays import FloatArray
from lib.detection.candidates import MAX_CANDIDATES
from lib.detection.description import Description, model_sha256, read_description, sealed
from lib.detection.formats.operators import require_harmless
from lib.detection.head import IMAGE
from lib.errors import ConfigError, ModelError
from lib.files import replacing
from lib.geometry.anchors import AnchorSpec
from lib.models import anchors_of, inference_model
from lib.models.decoding import anchor_grid, decode, decode_points, margins, probabilities
from lib.models.folding import fold_batch_norms

INPUT = IMAGE
OUTPUTS = ("boxes", "scores", "labels", "num_detections")
CANDIDATES = ("candidate_boxes", "candidate_scores")  # what enters NMS, for callers with an NMS of their own
LANDMARKS = "landmarks"  # a further output, and candidate, of detectors that find any
SETTINGS = "detector_settings"  # a string constant that says how the graph was made
DESCRIPTION = "detector_description"  # another, `lib.detection.description`
FACE_LABEL = 1  # padding has label 0


@dataclass(frozen=True)
class DetectionSettings:
    """What is fixed when a detector is frozen; the defaults are the published test code's.

    Attributes:
        score_threshold: boxes with at least this score, 0..1, are detections.
        iou_threshold: NMS: a box that overlaps a better one by more goes.
        max_candidates: so many of the best boxes of an image enter NMS.
        max_detections: at most so many come out; k in the outputs' shapes.

    """

    score_threshold: float = 0.05
    iou_threshold: float = 0.3
    max_candidates: int = MAX_CANDIDATES
    max_detections: int = 750

    def __post_init__(self) -> None:
        for name, value in (("score_threshold", self.score_threshold), ("iou_threshold", self.iou_threshold)):
            if not 0 <= value <= 1:
                raise ConfigError(f"{name} must lie in 0..1, got {value}")
        for name, count in (("max_candidates", self.max_candidates), ("max_detections", self.max_detections)):
            if not 1 <= count < 2**31:
                raise ConfigError(f"{name} must be at least 1 and below 2^31, got {count}")


def freeze(
    model: keras.Model, path: str | os.PathLike[str], settings: DetectionSettings | None = None
) -> tuple[int, int]:
    """Writes a detector as a frozen GraphDef: inference only, no variables, batch normalisation folded away.

    Input `image`: float32 [B, H, W, 3], RGB 0..255, any B, H and W; a uint8 image is cast to it by the caller.
    Outputs: `boxes` float32 [B, k, 4] (y1, x1, y2, x2, relative to the image, not clipped to it), `scores` float32
    [B, k] (best first), `labels` int32 [B, k] (1: face), `num_detections` int32 [B]; of a YuNet also `landmarks`
    float32 [B, k, 5, 2] (y, x). What lies behind an image's `num_detections` is 0. k is `settings.max_detections`.

    Returns:
        The file's size in bytes, and the number of nodes in the graph.

    Raises:
        ModelError: the model is no detector, or Keras runs on another backend than TensorFlow.

    """
    graph_def = detection_graph(model, settings or DetectionSettings())
    with replacing(path) as temporary:
        temporary.write_bytes(sealed(graph_def.SerializeToString(deterministic=True)))
    return Path(path).stat().st_size, len(graph_def.node)


def detection_graph(model: keras.Model, settings: DetectionSettings) -> Any:
    """The GraphDef that `freeze` writes, with a description that is not sealed yet."""
    tf = _tensorflow()
    anchors = anchors_of(model)
    if keras.backend.backend() != "tensorflow":
        raise ModelError(f"Keras runs on {keras.backend.backend()}; freezing needs KERAS_BACKEND=tensorflow")
    folded = fold_batch_norms(inference_model(model))

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32, INPUT)])
    def detect(image: Any) -> dict[str, Any]:
        # What follows computes in float32, whatever the network does.
        outputs = {name: tf.cast(values, tf.float32) for name, values in folded(image, training=False).items()}
        return _detections(tf, outputs, tf.shape(image), anchors, settings)

    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    frozen = convert_variables_to_constants_v2(detect.get_concrete_function())
    return _with_public_names(tf, frozen, settings, Description(anchors, None, "float32", model_sha256(model)))


def ends_of(anchors: AnchorSpec) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of a graph's outputs, and of its candidates."""
    if not anchors.landmarks:
        return OUTPUTS, CANDIDATES
    return (*OUTPUTS, LANDMARKS), (*CANDIDATES, f"candidate_{LANDMARKS}")


def _detections(
    tf: Any, outputs: dict[str, Any], image_shape: Any, anchors: AnchorSpec, settings: DetectionSettings
) -> dict[str, Any]:
    """The graph behind the network: offsets [B, n, 4] and logits [B, n, 2] -> candidates and detections."""
    leads = margins(outputs["scores"], anchors.scoring)
    # Best first, and of equal margins the earlier anchor, like lib.geometry.suppression.best_first.
    best_margins, best = tf.math.top_k(leads, tf.minimum(settings.max_candidates, tf.shape(leads)[1]))
    scores = probabilities(best_margins, anchors.scoring)
    grid = tf.gather(anchor_grid(anchors, image_shape[1], image_shape[2]), best)
    boxes = decode(tf.gather(outputs["boxes"], best, batch_dims=1), grid, anchors.code)
    boxes = tf.concat([boxes[..., 1::-1], boxes[..., :1:-1]], axis=-1)  # y1, x1, y2, x2
    compared = _in_whole_px(tf, boxes, image_shape) if anchors.whole_px else boxes

    def suppress(image_candidates: tuple[Any, Any]) -> tuple[Any, Any]:
        # Not combined_non_max_suppression: among equal scores that one chooses in no fixed order.
        return tuple(
            tf.raw_ops.NonMaxSuppressionV4(
                boxes=image_candidates[0],
                scores=image_candidates[1],
                max_output_size=settings.max_detections,
                iou_threshold=settings.iou_threshold,
                # The operator wants scores above its threshold; ours may also be equal to it.
                score_threshold=np.nextafter(np.float32(settings.score_threshold), np.float32(-1)),
                pad_to_max_output_size=True,
            )
        )

    kept, count = tf.map_fn(suppress, (compared, scores), fn_output_signature=(tf.int32, tf.int32))
    kept = tf.ensure_shape(kept, [None, settings.max_detections])
    real = tf.sequence_mask(count, settings.max_detections)
    found = {
        "boxes": tf.where(real[..., None], tf.gather(boxes, kept, batch_dims=1), 0.0),
        "scores": tf.where(real, tf.gather(scores, kept, batch_dims=1), 0.0),
        "labels": tf.where(real, FACE_LABEL, 0),
        "num_detections": count,
        "candidate_boxes": boxes,
        "candidate_scores": scores,
    }
    if anchors.landmarks:
        points = decode_points(tf.gather(outputs[LANDMARKS], best, batch_dims=1), grid)
        points = tf.reshape(points, [tf.shape(points)[0], -1, anchors.landmarks, 2])[..., ::-1]  # y, x
        found[LANDMARKS] = tf.where(real[..., None, None], tf.gather(points, kept, batch_dims=1), 0.0)
        found[f"candidate_{LANDMARKS}"] = points
    return found


def _in_whole_px(tf: Any, boxes: Any, image_shape: Any) -> Any:
    """`lib.geometry.suppression.in_whole_px` of relative boxes y1, x1, y2, x2, in px."""
    px = boxes * tf.cast(tf.tile(image_shape[1:3], [2]), tf.float32)
    corners, sides = px[..., :2], px[..., 2:] - px[..., :2]
    corners, sides = (tf.sign(values) * tf.floor(tf.abs(values)) for values in (corners, sides))
    return tf.concat([corners, corners + sides], axis=-1)


def _with_public_names(tf: Any, frozen: Any, settings: DetectionSettings, description: Description) -> Any:
    """The GraphDef of a frozen function, with the documented names on its ends and without what they do not need."""
    names = sorted(name for ends in ends_of(description.anchors) for name in ends)  # the order of a function's outputs
    with tf.Graph().as_default() as graph:
        image = tf.compat.v1.placeholder(tf.float32, [None, None, None, 3], INPUT)
        ends = tf.import_graph_def(
            frozen.graph.as_graph_def(),
            input_map={frozen.inputs[0].name: image},
            return_elements=[output.name for output in frozen.outputs],
            name="detector",
        )
        for name, end in zip(names, ends, strict=True):
            tf.identity(end, name)
        tf.constant(json.dumps(asdict(settings)), name=SETTINGS)
        tf.constant(description.to_json(), name=DESCRIPTION)
        meta_graph = tf.compat.v1.train.export_meta_graph(graph=graph)
    return _simplified(tf, meta_graph, [*names, SETTINGS, DESCRIPTION])


def _simplified(tf: Any, meta_graph: Any, keep: list[str]) -> Any:
    """The graph without what is constant or leads nowhere: for EResFD a fifth of the bytes, a third of the nodes."""
    from tensorflow.core.protobuf.config_pb2 import ConfigProto
    from tensorflow.python.grappler import tf_optimizer

    meta_graph.collection_def["train_op"].node_list.value.extend(keep)  # the optimiser keeps what is named here
    options = ConfigProto()
    rewriting = options.graph_options.rewrite_options
    # Only passes whose result runs everywhere: others fuse operators for the machine at hand.
    rewriting.optimizers.extend(["pruning", "constfold", "arithmetic", "dependency"])
    rewriting.min_graph_nodes = -1  # small graphs too
    optimized = tf_optimizer.OptimizeGraph(options, meta_graph)
    # The variables, constants by now, leave placeholders behind that nothing uses.
    nodes = [node for node in optimized.node if node.op != "Placeholder" or node.name == INPUT]
    for node in nodes:  # a note about how the graph was traced, at times there and at times not
        node.attr.pop("_has_manual_control_dependencies", None)
    return tf.compat.v1.GraphDef(node=nodes, versions=optimized.versions)


class FrozenGraph:
    """A `detector.pb` that was read again.

    Args:
        path: what `freeze` wrote.

    Attributes:
        settings: how it was made.
        description: what it says about itself.

    Raises:
        ModelError: the file is missing, damaged, is no GraphDef or no detector of this toolkit, has an operator that
            could do more than compute, or TensorFlow is not installed.

    """

    size_px = None  # images of any size

    def __init__(self, path: str | os.PathLike[str]) -> None:
        file = Path(path)
        if not file.is_file():
            raise ModelError(f"{file}: no such file; expected a frozen graph, as tools/auto_freeze.py writes it")
        tf = _tensorflow()
        content = file.read_bytes()
        try:
            graph_def = self._graph_def(tf, content)
        except Exception as error:  # protobuf's own class, which it does not export everywhere
            raise ModelError(f"{file}: no frozen graph, or damaged: {error}; write it anew") from error
        nodes = {node.name: node for node in graph_def.node}
        missing = [name for name in (INPUT, *OUTPUTS, *CANDIDATES, SETTINGS, DESCRIPTION) if name not in nodes]
        if missing:
            raise ModelError(
                f"{file}: a graph of {len(nodes)} nodes, but no detector of tools/auto_freeze.py: it lacks "
                f"{', '.join(missing)}; write it anew from the checkpoint"
            )
        require_harmless(file, graph_def)
        self.description = read_description(content, file)
        self.anchors = self.description.anchors
        self._outputs, candidates = ends_of(self.anchors)
        try:
            self.settings = DetectionSettings(**json.loads(nodes[SETTINGS].attr["value"].tensor.string_val[0]))
            whole = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(graph_def, name=""), [])
            ends = (INPUT, *self._outputs, *candidates)
            tensors = {name: whole.graph.get_tensor_by_name(f"{name}:0") for name in ends}
        except Exception as error:  # TensorFlow raises whatever the damaged part provokes
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise ModelError(f"{file}: damaged, or edited: {reason}; write it anew from the checkpoint") from error
        self._detect = whole.prune(tensors[INPUT], [tensors[name] for name in self._outputs])
        self._candidates = whole.prune(tensors[INPUT], [tensors[name] for name in candidates])
        self._tf: Any = tf

    def detect(self, images_rgb: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The graph's outputs by name for images [B, H, W, 3], 0..255; shapes as in `freeze`."""
        values = self._detect(self._tf.constant(images_rgb, self._tf.float32))
        return {name: value.numpy() for name, value in zip(self._outputs, values, strict=True)}

    def candidates(self, images_rgb: NDArray[np.uint8], score_threshold: float) -> list[tuple[FloatArray, FloatArray]]:
        """Of each image decoded boxes [n, 4 + 2 landmarks] and scores [n] before NMS, best first."""
        found = (value.numpy() for value in self._candidates(self._tf.constant(images_rgb, self._tf.float32)))
        candidates = []
        for boxes, scores, *points in zip(*found, strict=True):
            passing = scores >= score_threshold
            parts = [boxes[passing][:, [1, 0, 3, 2]]]
            parts += [values[passing][..., ::-1].reshape(-1, 2 * self.anchors.landmarks) for values in points]
            candidates.append((np.concatenate(parts, axis=1), scores[passing]))
        return candidates

    @staticmethod
    def _graph_def(tf: Any, content: bytes) -> Any:
        return tf.compat.v1.GraphDef.FromString(content)


def _tensorflow() -> Any:
    try:
        import tensorflow
    except ImportError as error:
        raise ModelError(f"frozen graphs (.pb) need TensorFlow, which cannot be imported: {error}") from error
    return tensorflow
