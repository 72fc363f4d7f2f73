import keras
import numpy as np
import pytest

from lib.errors import ModelError
from lib.training.losses import BoxLoss, FocalLoss, LossSettings, ScoreLoss, losses_of


def _plain_score_loss(labels: np.ndarray, logits: np.ndarray, ratio: float) -> float:
    log_probability = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    total = 0.0
    for label, lp in zip(labels, log_probability, strict=True):
        positive = label > 0
        negatives = np.sort(-lp[label == 0, 0])[::-1]
        total += -lp[positive, 1].sum() + negatives[: int(ratio * positive.sum())].sum()
    return total / ((labels > 0).sum() or len(labels))


@pytest.mark.parametrize("ratio", [1.0, 3.0, 1000.0])
def test_score_loss_equals_its_definition(rng: np.random.Generator, ratio: float) -> None:
    labels = (rng.random((4, 60)) < 0.1).astype(np.float32)
    labels[2] = 0
    labels[:, 50:] = np.where(labels[:, 50:] > 0, 1, -1)  # neither face nor background
    logits = rng.normal(0, 2, (4, 60, 2)).astype(np.float32)
    assert float(ScoreLoss(ratio)(labels, logits)) == pytest.approx(_plain_score_loss(labels, logits, ratio), rel=1e-5)


def test_box_loss_equals_its_definition(rng: np.random.Generator) -> None:
    truth = rng.normal(0, 2, (3, 20, 5)).astype(np.float32)
    truth[..., 4] = rng.random((3, 20)) < 0.3
    predicted = rng.normal(0, 2, (3, 20, 4)).astype(np.float32)
    distance = np.abs(truth[..., :4] - predicted)
    smooth = np.where(distance < 1, distance**2 / 2, distance - 0.5).sum(axis=-1)
    expected = smooth[truth[..., 4] > 0].sum() / truth[..., 4].sum()
    assert float(BoxLoss()(truth, predicted)) == pytest.approx(expected, rel=1e-5)


def test_negatives_over_the_batch_are_one_images_negatives(rng: np.random.Generator) -> None:
    labels = (rng.random((4, 60)) < 0.1).astype(np.float32)
    labels[2] = 0
    logits = rng.normal(0, 2, (4, 60, 2)).astype(np.float32)
    as_one = _plain_score_loss(labels.reshape(1, -1), logits.reshape(1, -1, 2), 3)
    assert float(ScoreLoss(3, over="batch")(labels, logits)) == pytest.approx(as_one, rel=1e-5)
    assert as_one != pytest.approx(_plain_score_loss(labels, logits, 3), rel=1e-3)
    with pytest.raises(ValueError, match="image"):
        ScoreLoss(over="bath")


def test_focal_loss_equals_its_definition(rng: np.random.Generator) -> None:
    labels = (rng.random((3, 50)) < 0.2).astype(np.float32)
    labels[0, :5] = -1
    logits = rng.normal(0, 3, (3, 50, 2)).astype(np.float32)
    face = 1 / (1 + np.exp(logits[..., 0].astype(np.float64) - logits[..., 1]))
    p = np.where(labels == 1, face, 1 - face)
    alpha = np.select([labels == 1, labels == 0], [0.25, 0.75], 0.0)
    expected = (-alpha * (1 - p) ** 2 * np.log(p)).sum() / (labels == 1).sum()
    assert float(FocalLoss()(labels, logits)) == pytest.approx(expected, rel=1e-5)
    plain = (-alpha * np.log(p)).sum() / (labels == 1).sum()
    assert float(FocalLoss(gamma=0.0)(labels, logits)) == pytest.approx(plain, rel=1e-5)


def test_sigma_moves_the_knee_and_leaves_the_slope() -> None:
    truth = np.array([[[0, 0, 0, 0, 1]]], np.float32)

    def at(distance: float) -> float:
        return float(BoxLoss(sigma=9.0)(truth, np.array([[[distance, 0, 0, 0]]], np.float32)))

    assert at(1 / 9) == pytest.approx(0.5 / 9)
    assert at(0.05) == pytest.approx(4.5 * 0.05**2)
    assert at(3.0) - at(2.0) == pytest.approx(1)


def test_no_positive_anywhere_is_finite_and_zero() -> None:
    labels, logits = np.zeros((2, 9), np.float32), np.ones((2, 9, 2), np.float32)
    assert float(ScoreLoss()(labels, logits)) == 0
    assert float(BoxLoss()(np.zeros((2, 9, 5), np.float32), np.ones((2, 9, 4), np.float32))) == 0


def test_extreme_logits_stay_finite() -> None:
    labels = np.array([[1, 0, 0, 0]], np.float32)
    logits = np.array([[[500, -500], [-500, 500], [0, 0], [300, 0]]], np.float32)
    assert float(ScoreLoss()(labels, logits)) == pytest.approx(2000 + np.log(2), rel=1e-6)


@pytest.mark.parametrize(
    "loss", [BoxLoss(sigma=9.0), ScoreLoss(negatives_per_positive=2.0, over="batch"), FocalLoss(0.5, 1.0)]
)
def test_config_round_trip(loss: keras.losses.Loss) -> None:
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert again.get_config() == loss.get_config()


def test_every_output_finds_its_loss() -> None:
    losses = losses_of(("boxes", "scores", "first_boxes", "first_scores"), LossSettings())
    assert {name: type(loss) for name, loss in losses.items()} == {
        "boxes": BoxLoss, "scores": ScoreLoss, "first_boxes": BoxLoss, "first_scores": ScoreLoss,
    }  # fmt: skip
    losses = losses_of(("boxes", "scores"), LossSettings(scores="focal", box_sigma=9.0))
    assert isinstance(losses["scores"], FocalLoss)
    assert isinstance(losses["boxes"], BoxLoss)
    assert losses["boxes"].sigma == 9
    with pytest.raises(ModelError, match=r"no loss is known for the output 'age'"):
        losses_of(("boxes", "age"), LossSettings())
