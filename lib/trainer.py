"""The compiled training step: a detector, its optimiser and its losses, made once and used for stages and trials."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from lib.boxes import FloatArray
from lib.callbacks import DatasetEpoch
from lib.config import Config
from lib.data.loader import FaceDataset, face_dataset
from lib.data.wider import Record
from lib.errors import ModelError
from lib.losses import BoxLoss, ScoreLoss
from lib.models import save, training_anchors
from lib.models.dsfd import named_ratios
from lib.pruning import GroupSparsity, HeldMasks

logger = logging.getLogger(__name__)


class Trainer:
    """A detector in training. Weights, masks and the optimiser's state can change; the compiled step stays.

    Args:
        model: the detector; it is trained in place.
        config: checked settings.

    Attributes:
        model: the detector.
        held: masks that the step keeps at zero; none at first.
        sparsity: the group-sparsity loss; None where its weight in the settings is 0.

    """

    def __init__(self, model: keras.Model, config: Config) -> None:
        self.model, self.config = model, config
        alpha, ratio = config.TRAIN.pruned_alpha, named_ratios(model, config.TRAIN.pruned_ratio)
        self.sparsity = GroupSparsity(model, alpha, ratio) if alpha else None
        optimizer = keras.optimizers.Adam(weight_decay=config.TRAIN.weight_decay_factor or None)
        optimizer.build(model.trainable_variables)  # inside the traced step it would cost a second trace
        self.held = HeldMasks(model, config.PRUNE.mode, optimizer)
        # XLA on TensorFlow's CPU path is slower here than the plain graph, and takes longer to compile.
        jit = False if keras.backend.backend() == "tensorflow" else "auto"
        model.compile(optimizer, loss=losses_of(model, config), jit_compile=jit)

    def set_weights(self, weights: Sequence[FloatArray]) -> None:
        """Sets the detector's weights, as `get_weights` gives them."""
        self.model.set_weights(weights)

    def reset_optimizer(self) -> None:
        """Forgets momenta and step counts, as if the optimiser were new."""
        for variable in self.model.optimizer.variables:
            variable.assign(np.zeros(variable.shape, variable.dtype))

    def restore(self, checkpoint: str | Path) -> None:
        """Takes weights and optimiser state from a checkpoint of the same detector and optimiser.

        Raises:
            ModelError: the checkpoint is of another model or has no optimiser.

        """
        loaded = keras.saving.load_model(checkpoint)
        ours, theirs = ([tuple(v.shape) for v in _state(model)] for model in (self.model, loaded))
        if ours != theirs:
            raise ModelError(f"{checkpoint}: not a checkpoint of this detector and optimiser")
        for variable, saved in zip(_state(self.model), _state(loaded), strict=True):
            variable.assign(np.asarray(saved))

    def dataset(self, records: Sequence[Record], augment: bool, epoch: int = 0) -> FaceDataset:
        """Batches for this detector: augmented and shuffled for training, whole and in order for validation."""
        anchors, shots = training_anchors(self.model)
        return face_dataset(self.config, records, anchors, augment, epoch, shots)

    def fit(
        self,
        dataset: FaceDataset,
        last_epoch: int,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        verbose: int = 0,
    ) -> None:
        """Keras' loop from the dataset's epoch up to `last_epoch`, counted from 0 and not included."""
        self.model.fit(
            dataset,
            initial_epoch=dataset.epoch,
            epochs=last_epoch,
            callbacks=[DatasetEpoch(dataset), *callbacks],
            verbose=verbose,
            shuffle=False,
        )

    def train_steps(self, dataset: FaceDataset, first_step: int, steps: int, learning_rate: float) -> None:
        """Exactly `steps` training steps at one rate, from step `first_step` of the run's order of batches on."""
        self.model.optimizer.learning_rate = learning_rate
        step, last = first_step, first_step + steps
        while step < last:
            dataset.epoch, batch = divmod(step, len(dataset))
            part = _Part(dataset, batch, min(len(dataset), batch + last - step))
            self.model.fit(part, verbose=0, shuffle=False)
            step += len(part)

    def validate(self, dataset: keras.utils.PyDataset) -> dict[str, float]:
        """The loss and its terms over a dataset, by name."""
        losses = self.model.evaluate(dataset, return_dict=True, verbose=0)
        return {name: float(value) for name, value in losses.items()}

    def save(self, path: str | Path) -> None:
        """Writes the detector alone, without the optimiser; the file is whole or absent."""
        plain = type(self.model).from_config(self.model.get_config())  # clone_model would bring the optimiser along
        plain.set_weights(self.model.get_weights())
        save(plain, path)


def losses_of(model: keras.Model, config: Config) -> dict[str, keras.losses.Loss]:
    """A loss for each of the model's outputs, by the kind that the output's name ends with: "boxes" or "scores"."""
    kinds = {"boxes": BoxLoss(), "scores": ScoreLoss(config.MODEL.max_negatives_per_positive)}
    found = {}
    for name in model.output:
        kind = next((kind for kind in kinds if name.endswith(kind)), None)
        if kind is None:
            raise ModelError(f"no loss is known for the output {name!r}; names must end with {' or '.join(kinds)}")
        found[name] = kinds[kind]
    return found


class _Part(keras.utils.PyDataset):
    """Batches first..stop - 1 of a dataset's epoch."""

    def __init__(self, dataset: FaceDataset, first: int, stop: int) -> None:
        super().__init__(workers=dataset.workers, max_queue_size=dataset.max_queue_size)
        self.dataset, self.first, self.stop = dataset, first, stop

    def __len__(self) -> int:
        return self.stop - self.first

    def __getitem__(self, index: int) -> Any:
        return self.dataset[self.first + index]


def _state(model: keras.Model) -> list[keras.Variable]:
    return [*model.variables, *(model.optimizer.variables if model.optimizer else [])]
