"""A YuNet, pruned or not, as the ONNX file that `cv2.FaceDetectorYN` loads.

The file is written a layer at a time, without TensorFlow, in the layout that OpenCV computes in: no transposition but
at the outputs. The packages onnx and OpenCV are needed.
"""

import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from lib.arrays import FloatArray
from lib.detection.candidates import MAX_CANDIDATES
from lib.errors import ModelError
from lib.files import replacing, require_ending
from lib.models import CropToCells, PadToMultiple, anchors_of
from lib.models.folding import fold_batch_norms
from lib.models.yunet import PREDICTIONS, STRIDES
from lib.pruning.graph.calls import Call, Calls

INPUT = "input"
# The names by which OpenCV finds a level's outputs, in the published order, and our kinds of prediction.
KINDS = {"cls": "class", "obj": "object", "bbox": "boxes", "kps": "landmarks"}
OPSET = 11  # the published file's
IOU_THRESHOLD = 0.3  # OpenCV's own
_SAME = (layers.Identity, layers.Dropout, layers.Activation, PadToMultiple, CropToCells)


def write_opencv(model: keras.Model, path: str | os.PathLike[str]) -> int:
    """Writes a YuNet for `cv2.FaceDetectorYN.create(path, "", (width, height))`, which has loaded it once before.

    Input `input`: float32 [B, 3, H, W], BGR 0..255, H and W multiples of 32 (OpenCV pads to that itself). Outputs, of
    each stride s: `cls_s` and `obj_s` [B, n, 1], probabilities; `bbox_s` [B, n, 4] and `kps_s` [B, n, 10] as the
    network gives them. Batch normalisation is folded away.

    Returns:
        The file's size in bytes.

    Raises:
        ModelError: the path does not end in .onnx, the model is no YuNet, it has a layer that cannot be written, OpenCV
            does not load the file, or a package is missing.

    """
    require_ending(path, ".onnx")
    try:
        import cv2
        import onnx
    except ImportError as error:
        raise ModelError(f"{path}: {error.name} is missing, install it to write a model for OpenCV") from error
    if anchors_of(model).strides != STRIDES or not anchors_of(model).landmarks:
        raise ModelError(f"model {model.name!r} is no YuNet; cv2.FaceDetectorYN knows no other detector")
    content = _Graph(fold_batch_norms(model)).onnx(model.name)
    onnx.checker.check_model(content, full_check=True)
    with replacing(path) as temporary:
        onnx.save(content, str(temporary))
        try:
            cv2.FaceDetectorYN.create(str(temporary), "", (64, 64)).detect(np.zeros((64, 64, 3), np.uint8))
        except cv2.error as error:
            raise ModelError(f"{path}: this OpenCV ({cv2.__version__}) does not load it: {error}") from error
    return Path(path).stat().st_size


class OpenCVDetector:
    """`cv2.FaceDetectorYN` on a file of `write_opencv`, to be called like a `FaceDetector`.

    Args:
        path: the file.

    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        import cv2

        file = os.fspath(path)
        self._network: Any = cv2.FaceDetectorYN.create(file, "", (64, 64), 0.5, IOU_THRESHOLD, MAX_CANDIDATES)

    def __call__(self, image_rgb: NDArray[np.uint8], score_threshold: float = 0.5) -> FloatArray:
        """float32 [n, 5]: x1, y1, x2, y2 in pixels and score, best first, of an image uint8 [H, W, 3]."""
        self._network.setInputSize(image_rgb.shape[1::-1])
        self._network.setScoreThreshold(score_threshold)
        _, rows = self._network.detect(np.ascontiguousarray(image_rgb[..., ::-1]))
        if rows is None:
            return np.zeros((0, 5), np.float32)
        return np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4], rows[:, 14:15]], axis=1).astype(np.float32)


class _Graph:
    """The nodes and values of an ONNX graph, up to the predictions; tensors are named by their makers."""

    def __init__(self, model: keras.Model) -> None:
        self.calls = Calls(model)
        self.nodes: list[Any] = []
        self.values: list[Any] = []
        self.names = {self.calls.inputs[0]: INPUT}
        self.padded: dict[int, tuple[int, ...]] = {}  # zeros that the next convolution adds: top, left, bottom, right
        self.widths: dict[str, int] = {}
        wanted = {f"head{level}_{kind}": level for level in range(len(STRIDES)) for kind in PREDICTIONS}
        for call in self._needed(set(wanted)):
            self._emit(call)
        outputs = [(kind, name) for kind in KINDS for name in (f"head{level}_{KINDS[kind]}" for level in range(3))]
        missing = [name for _, name in outputs if name not in self.widths]
        if missing:
            raise ModelError(f"{model.name} is no YuNet: it has no {', '.join(missing)}")
        self.outputs = [self._flat(f"{kind}_{STRIDES[wanted[name]]}", name) for kind, name in outputs]

    def onnx(self, name: str) -> Any:
        from onnx import TensorProto, helper

        image = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", 3, "height", "width"])
        outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in self.outputs]
        graph = helper.make_graph(self.nodes, name, [image], outputs, self.values)
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(graph, opset_imports=[opset], ir_version=6, producer_name="face_pruning")

    def _needed(self, wanted: set[str]) -> list[Call]:
        """The calls that these layers need, producers first."""
        found, tensors = [], set[int]()
        for call in reversed(self.calls.calls):
            if call.layer.name in wanted or tensors.intersection(call.outputs):
                found.append(call)
                tensors.update(call.inputs)
        return found[::-1]

    def _emit(self, call: Call) -> None:
        layer, source = call.layer, call.inputs[0]
        out = call.outputs[0]
        name = layer.name
        if isinstance(layer, layers.ZeroPadding2D):
            (top, bottom), (left, right) = layer.padding
            self.padded[out] = (top, left, bottom, right)
            self.names[out] = self.names[source]
            return
        if isinstance(layer, _SAME) and getattr(layer, "activation", None) in (None, keras.activations.linear):
            self.names[out] = self.names[source]
            self.padded.update({out: self.padded[source]} if source in self.padded else {})
            return
        if isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D):
            self._convolution(call)
            return
        if source in self.padded:
            raise ModelError(f"{name}: reads padding, which only convolutions can be written with")
        inputs = [self.names[number] for number in call.inputs]
        if isinstance(layer, layers.ReLU) and layer.max_value is None and layer.negative_slope == layer.threshold == 0:
            self._node("Relu", inputs, name)
        elif isinstance(layer, layers.MaxPooling2D) and layer.padding == "valid":
            self._node("MaxPool", inputs, name, kernel_shape=layer.pool_size, strides=layer.strides)
        elif isinstance(layer, layers.UpSampling2D) and layer.interpolation == "nearest":
            scales = self._value(f"{name}/scales", np.array([1, 1, *layer.size], np.float32))
            self._node(
                "Resize",
                [*inputs, self._value(f"{name}/roi", np.zeros(0, np.float32)), scales],
                name,
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )
        elif isinstance(layer, layers.Add):
            total = inputs[0]
            for index, other in enumerate(inputs[1:], start=2):
                total = self._node("Add", [total, other], name if index == len(inputs) else f"{name}/{index}")
        else:
            raise ModelError(f"{name} ({type(layer).__name__}): a layer that cannot be written for OpenCV")
        self.names[out] = name

    def _convolution(self, call: Call) -> None:
        layer, source, name = call.layer, call.inputs[0], call.layer.name
        kernel = np.asarray(layer.kernel)
        depthwise = isinstance(layer, layers.DepthwiseConv2D)
        # [kh, kw, in, out] or [kh, kw, channels, multiplier] -> [out, in / groups, kh, kw]
        kernel = kernel.transpose(3, 2, 0, 1)
        groups = kernel.shape[1] if depthwise else layer.groups
        if depthwise:
            kernel = kernel.transpose(1, 0, 2, 3).reshape(-1, 1, *kernel.shape[2:])
        if self.names[source] == INPUT:
            kernel = kernel[:, ::-1]  # OpenCV's images are BGR
        high, wide = kernel.shape[2:]
        pads = self.padded.get(source, (0, 0, 0, 0))
        if layer.padding == "same":
            if set(layer.strides) != {1} or set(layer.dilation_rate) != {1}:
                raise ModelError(f"{name}: a strided or dilated convolution is written with padding of its own only")
            own = ((high - 1) // 2, (wide - 1) // 2, high // 2, wide // 2)
            pads = tuple(a + b for a, b in zip(pads, own, strict=True))
        if layer.activation not in (keras.activations.linear, keras.activations.relu):
            raise ModelError(f"{name}: its activation cannot be written for OpenCV")
        inputs = [self.names[source], self._value(f"{name}/kernel", kernel)]
        if layer.use_bias:
            inputs.append(self._value(f"{name}/bias", np.asarray(layer.bias)))
        relu = layer.activation is keras.activations.relu
        self._node(
            "Conv",
            inputs,
            f"{name}/linear" if relu else name,
            kernel_shape=(high, wide),
            strides=layer.strides,
            dilations=layer.dilation_rate,
            pads=pads,
            group=groups,
        )
        if relu:
            self._node("Relu", [f"{name}/linear"], name)
        self.names[call.outputs[0]] = name
        self.widths[name] = kernel.shape[0]

    def _flat(self, output: str, name: str) -> tuple[str, list[Any]]:
        """A map as OpenCV reads it, row by row, scores as probabilities; its name and shape."""
        width = self.widths[name]
        rows = self._node("Transpose", [name], f"{output}/rows", perm=(0, 2, 3, 1))
        shape = self._value(f"{output}/shape", np.array([0, -1, width], np.int64))
        if output.startswith(("cls", "obj")):
            flat = self._node("Reshape", [rows, shape], f"{output}/logits")
            self._node("Sigmoid", [flat], output)
        else:
            self._node("Reshape", [rows, shape], output)
        return output, ["batch", None, width]

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        node = helper.make_node(kind, inputs, [output], name=output)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self.nodes.append(node)
        return output

    def _value(self, name: str, array: FloatArray | Any) -> str:
        from onnx import numpy_helper

        self.values.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name
