"""The multibox loss (SSD, arXiv 1512.02325, section 2.2) as two named terms, one an output of the model.

Each term is summed over anchors and divided by the number of positive anchors in the batch, or by the batch size if
there are none; the two add up to the loss.
"""

from typing import Any

import keras
from keras import ops

_PACKAGE = "face_pruning"


@keras.saving.register_keras_serializable(package=_PACKAGE)
class BoxLoss(keras.losses.Loss):
    """Smooth L1 on the encoded offsets of the positive anchors.

    y_true [B, n, 5]: offsets and 1 for a positive anchor, 0 else; y_pred [B, n, 4].
    """

    def __init__(self, name: str = "box_loss", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        positive = y_true[..., 4]
        distance = ops.abs(y_true[..., :4] - y_pred)
        smooth = ops.where(distance < 1, 0.5 * distance * distance, distance - 0.5)
        return ops.sum(ops.sum(smooth, axis=-1) * positive) / _normaliser(positive)


@keras.saving.register_keras_serializable(package=_PACKAGE)
class ScoreLoss(keras.losses.Loss):
    """Softmax cross-entropy over all positives and, in each image, the hardest negatives.

    y_true [B, n]: 1 face, 0 background, -1 neither; y_pred [B, n, 2]: logits of background and face.

    Args:
        negatives_per_positive: at most so many negatives an image for each of its positives, by descending loss.

    """

    def __init__(self, negatives_per_positive: float = 3.0, name: str = "score_loss", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.negatives_per_positive = negatives_per_positive

    def call(self, y_true: Any, y_pred: Any) -> Any:
        # Cross-entropy of two logits: softplus of the wrong one's lead.
        lead = y_pred[..., 1] - y_pred[..., 0]
        positive = ops.maximum(y_true, 0)
        positive_loss = ops.softplus(-lead) * positive
        negative_loss = ops.where(ops.equal(y_true, 0), ops.softplus(lead), 0.0)  # others sort last
        counts = ops.floor(self.negatives_per_positive * ops.sum(positive, axis=1, keepdims=True))
        # The sum of the k largest needs no indices, only the sorted values.
        hardest_first = -ops.sort(-negative_loss, axis=1)
        rank = ops.arange(y_pred.shape[1] or ops.shape(y_pred)[1], dtype=hardest_first.dtype)
        hard = ops.where(rank[None, :] < counts, hardest_first, 0.0)
        return (ops.sum(positive_loss) + ops.sum(hard)) / _normaliser(positive)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "negatives_per_positive": self.negatives_per_positive}


def _normaliser(positive: Any) -> Any:
    """Positives in the batch [B, n] of 0 and 1, or the batch size where there are none."""
    count = ops.sum(positive)
    return ops.where(count > 0, count, ops.cast(ops.shape(positive)[0], count.dtype))
