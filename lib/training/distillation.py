"""Distillation: a larger detector, the teacher, says what the one in training shall say on the same images.

Its terms need no labels (Hinton et al., arXiv 1503.02531, with the teacher's certainty as weight): nearly all anchors
lie in the background, where two detectors differ a little and it does not matter.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from lib.errors import ConfigError, ModelError
from lib.models import anchors_of, load, shots
from lib.models.decoding import scores
from lib.training.devices import sum_over_replicas
from lib.training.losses import smooth_l1


@dataclass(frozen=True)
class DistillationSettings:
    """Who teaches, and what the terms weigh.

    Attributes:
        teacher: a detector's `.keras` file.
        scores, boxes, landmarks: weights of the terms; 0: off.
        temperature: both detectors' logits are divided by it; above 1 they tell more of what is neither face nor not.
        focus: exponent of the difference in face probability that an anchor's score counts with, as in the quality
            focal loss (Li et al., arXiv 2006.04388, equation 4); 0: all anchors alike.

    """

    teacher: str
    scores: float = 1.0
    boxes: float = 1.0
    landmarks: float = 1.0
    temperature: float = 1.0
    focus: float = 1.0


class Distillation:
    """A teacher, and the terms by which a detector differs from it. No layer: what holds one holds no more weights.

    With p and q the teacher's and the student's face probability, and c = max(0, 2 p - 1) how sure the teacher is of a
    face, the terms are, summed over anchors:

    - scores: |p - q|^focus * KL(p, q) at the temperature, times its square, of two probabilities (class and object) the
      sum of both divergences;
    - boxes: c * smooth L1 between the offsets;
    - landmarks: the same, of detectors that find any;

    each divided by the batch's sum of c, or its size if that is more. On several devices the batch is the whole one,
    and a device's terms are its share. (Weights of p or p^2 would not do: detectors that were trained with hard
    negatives give all of the background some tenth, which then outweighs the faces 20 and 5 times.)

    Args:
        student: the detector in training.
        settings: see there.

    Raises:
        ConfigError: the weights of all terms that these detectors have are 0.
        ModelError: the teacher cannot be read, is no detector, or its anchors or input are not the student's.

    """

    def __init__(self, student: keras.Model, settings: DistillationSettings) -> None:
        self.settings = settings
        self.teacher = load(settings.teacher)
        self.teacher.trainable = False
        self.shots = tuple(_common_shots(student, self.teacher, settings.teacher))
        anchors = anchors_of(student)
        self.scoring = anchors.scoring
        self.offsets = ("boxes", "landmarks") if anchors.landmarks else ("boxes",)
        if not self.names:
            weights = " and ".join(f"DISTIL.{kind}" for kind in ("scores", *self.offsets))
            raise ConfigError(f"{weights} are 0, so that DISTIL.teacher has no say; set one of them")

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the terms in the logs: `distil_OUTPUT_loss`, for outputs that both detectors have."""
        kinds = [kind for kind in ("scores", *self.offsets) if getattr(self.settings, kind)]
        return tuple(f"distil_{shot}{kind}_loss" for shot in self.shots for kind in kinds)

    def terms(self, images: Any, predicted: Mapping[str, Any]) -> dict[str, Any]:
        """The weighted terms by name, scalars; gradients flow into `predicted` alone.

        Args:
            images: [B, H, W, 3] RGB, 0..255.
            predicted: the student's outputs, by shot: boxes [B, n, 4] offsets, scores [B, n, 2] logits.

        """
        taught = {name: ops.stop_gradient(value) for name, value in self.teacher(images, training=False).items()}
        settings = self.settings
        found = {}
        for shot in self.shots:
            theirs, ours = taught[f"{shot}scores"], predicted[f"{shot}scores"]
            probability = scores(theirs, self.scoring)
            sure = ops.maximum(2 * probability - 1, 0.0)
            size = ops.cast(ops.shape(sure)[0], sure.dtype)
            count = ops.max(sum_over_replicas(ops.stack([ops.sum(sure), size])))
            differences = _divergence(self._leads(theirs), self._leads(ours), settings.temperature)
            if settings.focus:
                gap = ops.stop_gradient(ops.abs(probability - scores(ours, self.scoring)))
                differences = differences * gap**settings.focus
            found[f"distil_{shot}scores_loss"] = settings.scores * ops.sum(differences) / count
            for kind in self.offsets:
                apart = sure * smooth_l1(taught[f"{shot}{kind}"] - predicted[f"{shot}{kind}"])
                found[f"distil_{shot}{kind}_loss"] = getattr(settings, kind) * ops.sum(apart) / count
        return {name: found[name] for name in self.names}

    def _leads(self, logits: Any) -> Any:
        """Logits [B, n, 2] -> those of independent probabilities [B, n, k]: a face's, or the class's and object's."""
        return logits[..., 1:] - logits[..., :1] if self.scoring == "softmax" else logits


def _divergence(theirs: Any, ours: Any, temperature: float) -> Any:
    """Of both detectors' leads [B, n, k]: the KL of each anchor [B, n] at the temperature, times its square."""
    hot, cool = theirs / temperature, ours / temperature
    # KL of two Bernoullis by their logits. Its gradient is sigmoid(cool) - sigmoid(hot): finite, however far apart.
    divergence = ops.softplus(cool) - ops.softplus(hot) - ops.sigmoid(hot) * (cool - hot)
    return temperature**2 * ops.sum(ops.maximum(divergence, 0.0), axis=-1)  # rounding may leave it a little below


def _common_shots(student: keras.Model, teacher: keras.Model, file: str) -> list[str]:
    """The shots that both have; they must have the same anchors, and the models the same input."""
    for axis, (size, ours) in enumerate(zip(teacher.input_shape, student.input_shape, strict=True)):
        if size not in (None, ours):
            raise ModelError(
                f"{file}: this teacher takes images {teacher.input_shape}, the model in training "
                f"{student.input_shape}; axis {axis} must be free or the same: give a teacher that was built for any "
                "size"
            )
    theirs, ours = shots(teacher), shots(student)
    common = [shot for shot in ours if shot in theirs]
    for shot in common:
        if theirs[shot] != ours[shot]:
            raise ModelError(
                f"{file}: the anchors of this teacher are not those of the model in training, so that their outputs "
                f"cannot be compared: {theirs[shot]} and {ours[shot]}; give a teacher of the same kind"
            )
    return common
