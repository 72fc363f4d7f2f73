"""The multibox loss (SSD, arXiv 1512.02325, section 2.2) as named terms, one an output of the model.

Each term is summed over anchors and divided by the number of positive anchors in the batch, or by the batch size if
there are none; the terms add up to the loss. On several devices the batch is the whole one, of all of them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import keras
from keras import ops

from lib.errors import ModelError
from lib.training.devices import sum_over_replicas

_PACKAGE = "face_pruning"


@dataclass(frozen=True)
class LossSettings:
    """Which losses a detector is trained with.

    Attributes:
        scores: "softmax" with hard negatives (`ScoreLoss`), or "focal" over all anchors (`FocalLoss`).
        negatives_per_positive, negatives_over: of `ScoreLoss`.
        box_sigma: of `BoxLoss`.

    """

    scores: Literal["softmax", "focal"] = "softmax"
    negatives_per_positive: float = 3.0
    negatives_over: Literal["image", "batch"] = "image"
    box_sigma: float = 1.0


def smooth_l1(difference: Any, knee: float = 1.0) -> Any:
    """Sums [...] over [..., k]: up to a distance of `knee` a square over 2 `knee`, above it straight with slope 1."""
    distance = ops.abs(difference)
    return ops.sum(ops.where(distance < knee, (0.5 / knee) * distance * distance, distance - 0.5 * knee), axis=-1)


@keras.saving.register_keras_serializable(package=_PACKAGE)
class BoxLoss(keras.losses.Loss):
    """Smooth L1 on the encoded offsets of the positive anchors.

    y_true [B, n, 5]: offsets and 1 for a positive anchor, 0 else; y_pred [B, n, 4].

    Args:
        sigma: up to a distance of 1 / sigma the loss is sigma / 2 * distance^2, above it grows with slope 1 (1: as
            published with SSD and EResFD; the pruned DSFD: 9).

    """

    def __init__(self, sigma: float = 1.0, name: str = "box_loss", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.sigma = sigma

    def call(self, y_true: Any, y_pred: Any) -> Any:
        positive = y_true[..., 4]
        apart = smooth_l1(y_true[..., :4] - y_pred, 1 / self.sigma)
        return ops.sum(apart * positive) / _normaliser(positive)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "sigma": self.sigma}


@keras.saving.register_keras_serializable(package=_PACKAGE)
class ScoreLoss(keras.losses.Loss):
    """Softmax cross-entropy over all positives and the hardest negatives.

    y_true [B, n]: 1 face, 0 background, -1 neither; y_pred [B, n, 2]: logits of background and face.

    Args:
        negatives_per_positive: at most so many negatives for each positive, by descending loss.
        over: "image": each image's negatives for its own positives (EResFD); "batch": the batch's for the batch's,
            so that images without faces give negatives too (DSFD); on several devices, each device's share of it.

    """

    def __init__(
        self, negatives_per_positive: float = 3.0, over: str = "image", name: str = "score_loss", **kwargs: Any
    ) -> None:
        super().__init__(name=name, **kwargs)
        if over not in ("image", "batch"):
            raise ValueError(f'over must be "image" or "batch", got {over!r}')
        self.negatives_per_positive, self.over = negatives_per_positive, over

    def call(self, y_true: Any, y_pred: Any) -> Any:
        # Cross-entropy of two logits: softplus of the wrong one's lead.
        lead = y_pred[..., 1] - y_pred[..., 0]
        positive = ops.maximum(y_true, 0)
        positive_loss = ops.softplus(-lead) * positive
        groups, labels = ops.where(ops.equal(y_true, 0), ops.softplus(lead), 0.0), positive  # others sort last
        if self.over == "batch":
            groups, labels = ops.reshape(groups, (1, -1)), ops.reshape(labels, (1, -1))
        counts = ops.floor(self.negatives_per_positive * ops.sum(labels, axis=1, keepdims=True))
        # The sum of the k largest needs no indices, only the sorted values.
        hardest_first = -ops.sort(-groups, axis=1)
        rank = ops.arange(groups.shape[1] or ops.shape(groups)[1], dtype=hardest_first.dtype)
        hard = ops.where(rank[None, :] < counts, hardest_first, 0.0)
        return (ops.sum(positive_loss) + ops.sum(hard)) / _normaliser(positive)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "negatives_per_positive": self.negatives_per_positive, "over": self.over}


@keras.saving.register_keras_serializable(package=_PACKAGE)
class FocalLoss(keras.losses.Loss):
    """Focal loss over all anchors (Lin et al., arXiv 1708.02002, equation 5), in place of hard negatives.

    y_true [B, n]: 1 face, 0 background, -1 neither; y_pred [B, n, 2]: logits of background and face.

    Args:
        alpha: weight of the positives; negatives weigh 1 - alpha.
        gamma: how strongly well-classified anchors fade; 0: weighted cross-entropy.

    """

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0, name: str = "focal_loss", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.alpha, self.gamma = alpha, gamma

    def call(self, y_true: Any, y_pred: Any) -> Any:
        positive = ops.maximum(y_true, 0)
        lead = (y_pred[..., 1] - y_pred[..., 0]) * (1 - 2 * positive)  # of the wrong logit
        weight = ops.where(ops.equal(y_true, 0), 1 - self.alpha, self.alpha * positive)
        # sigmoid(lead)^gamma by way of its logarithm, whose gradient is finite where the sigmoid is 0
        fading = ops.exp(-self.gamma * ops.softplus(-lead))
        return ops.sum(weight * fading * ops.softplus(lead)) / _normaliser(positive)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "alpha": self.alpha, "gamma": self.gamma}


def losses_of(outputs: Iterable[str], settings: LossSettings) -> dict[str, keras.losses.Loss]:
    """A loss for each of a model's outputs, by the kind that the output's name ends with: "boxes" or "scores".

    Raises:
        ModelError: an output is of neither kind.

    """
    score_loss = (
        FocalLoss()
        if settings.scores == "focal"
        else ScoreLoss(settings.negatives_per_positive, settings.negatives_over)
    )
    kinds: dict[str, keras.losses.Loss] = {"boxes": BoxLoss(settings.box_sigma), "scores": score_loss}
    found = {}
    for name in outputs:
        kind = next((kind for kind in kinds if name.endswith(kind)), None)
        if kind is None:
            raise ModelError(f"no loss is known for the output {name!r}; names must end with {' or '.join(kinds)}")
        found[name] = kinds[kind]
    return found


def _normaliser(positive: Any) -> Any:
    """Positives in the whole batch [B, n] of 0 and 1, or the batch size where there are none."""
    size = ops.cast(ops.shape(positive)[0], positive.dtype)
    sums = sum_over_replicas(ops.stack([ops.sum(positive), size]))
    return ops.where(sums[0] > 0, sums[0], sums[1])
