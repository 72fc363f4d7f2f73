"""The few layers that the detectors need beyond Keras' own. Importing registers them for `.keras` files."""

from typing import Any

import keras
from keras import ops

from lib.anchors import AnchorSpec

Shape = tuple[int | None, ...]
PACKAGE = "face_pruning"


@keras.saving.register_keras_serializable(package=PACKAGE)
class WeightedFusion(keras.layers.Layer):
    """Learned, normalised sum of two feature maps of the same channels (EResFD's separated FPN, arXiv 2204.01209).

    Inputs [a, b], float, [B, H, W, C] each; b is cropped at the bottom and right to a's height and width, because
    doubling a map of ceil(H / 2) rows may give one row too many. Output [B, H, W, C].

    The weight vector of 2 goes through ReLU and is normalised twice, as the published network does; the second
    division is not a no-op because each adds 1e-4, and published weights depend on it.
    """

    EPSILON = 1e-4

    def build(self, input_shape: list[Shape]) -> None:
        if len(input_shape) != 2 or input_shape[0][-1] != input_shape[1][-1]:
            raise ValueError(f"{self.name} fuses two maps of the same channels, got shapes {input_shape}")
        self.fusion_weight = self.add_weight(
            name="fusion_weight", shape=(2,), initializer=keras.initializers.Constant(0.5)
        )

    def call(self, inputs: list[Any]) -> Any:
        a, b = inputs
        if None in a.shape[1:3] or a.shape[1:3] != b.shape[1:3]:
            shape = ops.shape(a)
            b = b[:, : shape[1], : shape[2], :]
        weight = ops.relu(self.fusion_weight)
        weight = weight / (ops.sum(weight) + self.EPSILON)
        weight = weight / (ops.sum(weight) + self.EPSILON)
        return weight[0] * a + weight[1] * b

    def compute_output_shape(self, input_shape: list[Shape]) -> Shape:
        return tuple(input_shape[0])


@keras.saving.register_keras_serializable(package=PACKAGE)
class MaxoutBackground(keras.layers.Layer):
    """[..., k + 1] logits -> [..., 2]: background = the maximum of the first k, face = the last (S3FD, section 3.3).

    The finest level sees the most background; k chances to call a cell background remove many false positives.
    """

    def call(self, inputs: Any) -> Any:
        background = ops.max(inputs[..., :-1], axis=-1, keepdims=True)
        return ops.concatenate([background, inputs[..., -1:]], axis=-1)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], 2)


@keras.saving.register_keras_serializable(package=PACKAGE)
class ConcatenateAnchors(keras.layers.Layer):
    """Joins the levels' flattened predictions and carries the anchors that they belong to.

    Inputs: one [B, n_level, C] a level, finest first. Output [B, n, C]. The anchors sit in this layer's configuration,
    so that every model made from this one (loaded, cloned, made smaller) still knows them; see `lib.models.anchors_of`.

    Args:
        anchors: `AnchorSpec.to_dict()`.

    """

    def __init__(self, anchors: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.anchor_spec = AnchorSpec(**anchors)

    def build(self, input_shape: list[Shape]) -> None:
        if len(input_shape) != len(self.anchor_spec.strides):
            raise ValueError(f"{self.name} joins {len(self.anchor_spec.strides)} levels, got shapes {input_shape}")

    def call(self, inputs: list[Any]) -> Any:
        return ops.concatenate(inputs, axis=1)

    def compute_output_shape(self, input_shape: list[Shape]) -> Shape:
        counts = [shape[1] for shape in input_shape]
        total = None if None in counts else sum(count for count in counts if count is not None)
        return (input_shape[0][0], total, input_shape[0][2])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "anchors": self.anchor_spec.to_dict()}
