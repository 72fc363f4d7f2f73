"""The few layers that the detectors need beyond Keras' own. Importing registers them for `.keras` files."""

from typing import Any

import keras
from keras import ops

from lib.geometry.anchors import AnchorSpec

Shape = tuple[int | None, ...]
PACKAGE = "face_pruning"


def cropped_like(x: Any, like: Any) -> Any:
    """[B, H', W', C] cropped at the bottom and right to the height and width of `like`, [B, H, W, ...]."""
    if None in like.shape[1:3] or like.shape[1:3] != x.shape[1:3]:
        shape = ops.shape(like)
        return x[:, : shape[1], : shape[2], :]
    return x


@keras.saving.register_keras_serializable(package=PACKAGE)
class WeightedFusion(keras.layers.Layer):
    """Learned, normalised sum of two feature maps of the same channels (EResFD's separated FPN, arXiv 2204.01209).

    Inputs [a, b], float, [B, H, W, C] each; b is cropped at the bottom and right to a's height and width, because
    doubling a map of ceil(H / 2) rows may give one row too many. Output [B, H, W, C].

    The weight vector of 2 goes through ReLU and is normalised twice, as the published network does; the second
    division is not a no-op because each adds 1e-4, and published weights depend on it.
    """

    EPSILON = 1e-4
    channel_kind = "sum"  # this and the like: see lib.pruning.graph.kinds
    crops_to_first = True

    def build(self, input_shape: list[Shape]) -> None:
        if len(input_shape) != 2 or input_shape[0][-1] != input_shape[1][-1]:
            raise ValueError(f"{self.name} fuses two maps of the same channels, got shapes {input_shape}")
        self.fusion_weight = self.add_weight(
            name="fusion_weight", shape=(2,), initializer=keras.initializers.Constant(0.5)
        )

    def call(self, inputs: list[Any]) -> Any:
        a, b = inputs
        weight = self._normalised()
        return weight[0] * a + weight[1] * cropped_like(b, a)

    def _normalised(self) -> Any:
        weight = ops.relu(self.fusion_weight)
        weight = weight / (ops.sum(weight) + self.EPSILON)
        return weight / (ops.sum(weight) + self.EPSILON)

    def operand_weights(self) -> list[float]:
        """What a and b are multiplied by."""
        return [float(value) for value in ops.convert_to_numpy(self._normalised())]

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
class L2Normalization(keras.layers.Layer):
    """Each pixel's channels divided by their Euclidean norm, times a learned scale (ParseNet, arXiv 1506.04579).

    [..., C] -> [..., C]; one scale a channel; a pixel of zeros stays so. S3FD and DSFD bring features of different
    depths to comparable sizes with it.

    Args:
        initial_scale: what every channel's scale starts from.

    """

    EPSILON = 1e-12  # of the squared norm
    channel_kind = "l2norm"

    def __init__(self, initial_scale: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.initial_scale = initial_scale

    def build(self, input_shape: Shape) -> None:
        initializer = keras.initializers.Constant(self.initial_scale)
        self.scale = self.add_weight(name="scale", shape=(input_shape[-1],), initializer=initializer)

    def call(self, inputs: Any) -> Any:
        square = ops.sum(ops.square(inputs), axis=-1, keepdims=True)
        return inputs * ops.rsqrt(ops.maximum(square, self.EPSILON)) * self.scale

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "initial_scale": self.initial_scale}


@keras.saving.register_keras_serializable(package=PACKAGE)
class CroppedMultiply(keras.layers.Multiply):
    """Product of two feature maps of the same channels (DSFD's feature enhance module, arXiv 1810.10220, section 3.2).

    Inputs [a, b], [B, H, W, C] each; b is cropped at the bottom and right to a's height and width, because doubling a
    map of ceil(H / 2) rows may give one row too many. Output [B, H, W, C].
    """

    channel_kind = "product"

    def build(self, input_shape: list[Shape]) -> None:
        if len(input_shape) != 2 or input_shape[0][-1] != input_shape[1][-1]:
            raise ValueError(f"{self.name} multiplies two maps of the same channels, got shapes {input_shape}")

    def call(self, inputs: list[Any]) -> Any:
        a, b = inputs
        return a * cropped_like(b, a)

    def compute_output_shape(self, input_shape: list[Shape]) -> Shape:
        return tuple(input_shape[0])


@keras.saving.register_keras_serializable(package=PACKAGE)
class ConcatenateAnchors(keras.layers.Layer):
    """Joins the levels' flattened predictions and carries the anchors that they belong to.

    Inputs: one [B, n_level, C] a level, finest first. Output [B, n, C]. The anchors sit in this layer's configuration,
    so that every model made from this one (loaded, cloned, made smaller) still knows them; see `lib.models.anchors_of`.

    Args:
        anchors: `AnchorSpec.to_dict()`.

    """

    channel_kind = "sum"  # channel j of all levels, one level after another

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


@keras.saving.register_keras_serializable(package=PACKAGE)
class PadToMultiple(keras.layers.Layer):
    """[B, H, W, C] with zeros at the bottom and right, up to the next multiples of `multiple` in height and width.

    Args:
        multiple: px.

    """

    channel_kind = "pass"

    def __init__(self, multiple: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.multiple = multiple

    def call(self, inputs: Any) -> Any:
        shape = inputs.shape if None not in inputs.shape[1:3] else ops.shape(inputs)
        below, right = ((self.multiple - shape[axis] % self.multiple) % self.multiple for axis in (1, 2))
        if isinstance(below, int) and isinstance(right, int) and below == right == 0:
            return inputs
        return ops.pad(inputs, ((0, 0), (0, below), (0, right), (0, 0)))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, height, width, channels = input_shape
        height, width = (
            None if size is None else -(-size // self.multiple) * self.multiple for size in (height, width)
        )
        return (batch, height, width, channels)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "multiple": self.multiple}


@keras.saving.register_keras_serializable(package=PACKAGE)
class CropToCells(keras.layers.Layer):
    """A map without the rows and columns that lie wholly in the image's padding.

    Inputs [map, image], [B, h, w, C] and [B, H, W, ...]; output [B, ceil(H / stride), ceil(W / stride), C].

    Args:
        stride: px of the image from one position of the map to the next.

    """

    channel_kind = "opaque"  # it reads two tensors of different channels

    def __init__(self, stride: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stride = stride

    def call(self, inputs: list[Any]) -> Any:
        values, image = inputs
        shape = image.shape if None not in image.shape[1:3] else ops.shape(image)
        # Rounded up. Not as -(-size // stride): converters divide negative numbers by truncation.
        rows, columns = ((shape[axis] + self.stride - 1) // self.stride for axis in (1, 2))
        return values[:, :rows, :columns, :]

    def compute_output_shape(self, input_shape: list[Shape]) -> Shape:
        values, image = input_shape
        rows, columns = (None if size is None else -(-size // self.stride) for size in image[1:3])
        return (values[0], rows, columns, values[3])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "stride": self.stride}
