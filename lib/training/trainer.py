"""The compiled training step: a detector, its optimiser and its losses, made once and used for stages and trials."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from lib.arrays import FloatArray
from lib.data.annotations import Record
from lib.data.batches import BatchSettings, FaceDataset, face_dataset
from lib.errors import ModelError
from lib.models import anchors_of, save, training_anchors
from lib.models.dsfd import named_ratios
from lib.pruning import GroupSparsity, HeldMasks, recalibrate
from lib.pruning.graph.sets import Mode
from lib.training.callbacks import DatasetEpoch
from lib.training.distillation import Distillation, DistillationSettings
from lib.training.losses import LossSettings, losses_of
from lib.training.optimizer import OptimizerSettings, coupled_decay, make_optimizer
from lib.training.processes import alone, distributed, present, share_of, whole_batches
from lib.training.simota import MatchingLoss
from lib.training.step import TrainingModel, inner_kernels

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainerSettings:
    """What a trainer is made with, beside the detector.

    Attributes:
        batches: how images become batches.
        optimizer: how weights move.
        losses: what they are pulled by.
        precision: the type in which the layers before the heads compute, see `TrainingModel`.
        mode: of the masks that can be held, see `lib.pruning.channel_sets`.
        sparsity: weight of the group-sparsity loss; 0: none.
        sparsity_ratios: share of each endpoint's channels that it pulls at: one, a list, or by name.
        lock_norms: whether the batch normalisations stay as they are; the saved detector's can be trained again.
        distillation: who teaches, beside the labels; None: nobody.

    """

    batches: BatchSettings
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    losses: LossSettings = field(default_factory=LossSettings)
    precision: Literal["off", "bfloat16", "float16"] = "off"
    mode: Mode = "removable"
    sparsity: float = 0.0
    sparsity_ratios: Any = 0.3
    lock_norms: bool = False
    distillation: DistillationSettings | None = None


class Trainer:
    """A detector in training. Weights, masks and the optimiser's state can change; the compiled step stays.

    Of several processes (`lib.training.processes`) all call the same methods in the same order, and the first saves.

    With `OptimizerSettings.ema` the optimiser keeps averaged weights; they are what is validated, saved and measured.

    Args:
        model: the detector; it is trained in place.
        settings: how.

    Attributes:
        model: the detector.
        training_model: what Keras trains, of the detector's own layers.
        held: masks that the step keeps at zero; none at first.
        sparsity: the group-sparsity loss; None where its weight in the settings is 0.

    """

    def __init__(self, model: keras.Model, settings: TrainerSettings) -> None:
        self.model, self.settings = model, settings
        self._locked = lock_norms(model) if settings.lock_norms else []
        self.sparsity: GroupSparsity | None = None
        if settings.sparsity:
            self.sparsity = GroupSparsity(model, settings.sparsity, named_ratios(model, settings.sparsity_ratios))
        optimizer = make_optimizer(settings.optimizer, inner_kernels(model))
        optimizer.build(model.trainable_variables)  # inside the traced step it would cost a second trace
        self.held = HeldMasks(model, settings.mode, getattr(optimizer, "inner_optimizer", optimizer))
        model.compile(optimizer)  # so that checkpoints hold the optimiser
        teacher = Distillation(model, settings.distillation) if settings.distillation else None
        anchors = anchors_of(model)
        matching = MatchingLoss(anchors) if anchors.matched_in_training else None
        self.training_model = TrainingModel(
            model,
            coupled_decay(settings.optimizer),
            settings.precision,
            teacher,
            matching,
            self.held,
            self.sparsity.variables if self.sparsity else (),
        )
        # XLA on TensorFlow's CPU path is slower here than the plain graph, and takes longer to compile.
        jit = False if keras.backend.backend() == "tensorflow" else "auto"
        losses = None if matching else losses_of(model.output, settings.losses)
        self.training_model.compile(optimizer, loss=losses, jit_compile=jit, auto_scale_loss=False)
        self.training_model.make_metrics()
        self.restart_average()  # a new optimiser's are zeros

    @property
    def traces(self) -> int:
        """How often the training step was traced: 1 once it has run, however the weights and masks change."""
        return self.training_model.traces

    @property
    def running_metrics(self) -> list[list[float]]:
        """The state of the epoch's means of the loss terms, for a checkpoint in the middle of an epoch."""
        self._take_back()
        return [np.asarray(v).ravel().tolist() for v in self.training_model.metrics_variables]

    @running_metrics.setter
    def running_metrics(self, state: list[list[float]]) -> None:
        for variable, value in zip(self.training_model.metrics_variables, state, strict=True):
            variable.assign(np.asarray(value, np.float32).reshape(variable.shape))

    def detach(self) -> None:
        """Takes off the detector what this trainer put on it, so that another can be made of it."""
        if self.sparsity:
            self.sparsity.detach()
        for name in self._locked:
            self.model.get_layer(name).trainable = True

    def set_weights(self, weights: Sequence[FloatArray]) -> None:
        """Sets the detector's weights, as `get_weights` gives them; averaging starts anew from them."""
        self.model.set_weights(weights)
        self.restart_average()

    def reset_optimizer(self) -> None:
        """Forgets momenta and step counts, as if the optimiser were new."""
        optimizer = self.model.optimizer
        for variable in optimizer.variables:
            variable.assign(np.zeros(variable.shape, variable.dtype))
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            optimizer.dynamic_scale.assign(optimizer.initial_scale)
        self.restart_average()

    def restart_average(self) -> None:
        """Makes the averaged weights the present ones; needed wherever weights change other than by a step."""
        for variable, average in self._averages():
            average.assign(np.array(variable))  # a copy: JAX's step gives each buffer away, and can do so only once

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the detector has the averaged weights, and the optimiser keeps the others for it."""
        self._take_back()
        self._swap_averages()
        try:
            yield
        finally:
            self._swap_averages()

    def _take_back(self) -> None:
        """Within an epoch JAX's step has the variables' values; this gives them back, and the loop takes them again."""
        if keras.backend.backend() == "jax":
            self.training_model.jax_state_sync()

    def _averages(self) -> list[tuple[keras.Variable, keras.Variable]]:
        optimizer = self.model.optimizer
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        if not optimizer.use_ema:
            return []
        return list(zip(self.model.trainable_variables, optimizer._model_variables_moving_average, strict=True))

    def _swap_averages(self) -> None:
        for variable, average in self._averages():
            value = np.array(average)
            average.assign(variable)
            variable.assign(value)

    def save_checkpoint(self, path: str | Path) -> None:
        """Writes the detector, with averaged weights if there are any, and its optimiser; whole or absent."""
        with self.averaged():
            self.write(path)

    def write(self, path: str | Path) -> None:
        """Writes the detector with the weights that it has at the moment, and its optimiser; whole or absent."""
        if present().first:
            with alone():
                save(self.model, path)

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
        self._swap_averages()

    def dataset(self, records: Sequence[Record], augment: bool, epoch: int = 0) -> FaceDataset:
        """Batches for this detector: augmented and shuffled for training, whole and in order for validation."""
        anchors, shots = training_anchors(self.model)
        dataset = face_dataset(self.settings.batches, records, anchors, augment=augment, epoch=epoch, shots=shots)
        if augment:
            dataset.rows = share_of(dataset.batch_size)
        return dataset

    def fit(
        self,
        dataset: FaceDataset,
        last_epoch: int,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        verbose: int = 0,
        first_batch: int = 0,
    ) -> None:
        """Keras' loop from the dataset's epoch up to `last_epoch`, counted from 0 and not included.

        Args:
            first_batch: the batch of the first epoch to begin with; those before it have been trained on. Callbacks
                that count batches find it in their attribute `first_batch`.

        """
        parts: list[tuple[keras.utils.PyDataset, int, int, int]] = []
        first_epoch = dataset.epoch
        if first_batch:
            rest = _Part(dataset, first_batch, len(dataset))
            parts.append((rest, first_epoch, first_epoch + 1, first_batch))
            first_epoch += 1
        parts.append((dataset, first_epoch, last_epoch, 0))
        for part, initial, end, offset in parts:
            if initial < end:
                for callback in callbacks:
                    callback.first_batch = offset
                self._fit(part, initial, end, [DatasetEpoch(dataset), *callbacks], verbose)

    def train_steps(self, dataset: FaceDataset, first_step: int, steps: int, learning_rate: float) -> None:
        """Exactly `steps` training steps at one rate, from step `first_step` of the run's order of batches on."""
        self.model.optimizer.learning_rate = learning_rate
        step, last = first_step, first_step + steps
        while step < last:
            dataset.epoch, batch = divmod(step, len(dataset))
            part = _Part(dataset, batch, min(len(dataset), batch + last - step))
            self._fit(part, 0, 1, [], 0)
            step += len(part)

    def _fit(self, dataset: keras.utils.PyDataset, initial: int, end: int, callbacks: list[Any], verbose: int) -> None:
        averages = [_WeightsSurvive(self.model)] if self._averages() else []
        with distributed():
            self.training_model.fit(
                dataset,
                initial_epoch=initial,
                epochs=end,
                callbacks=[*callbacks, *averages],
                verbose=verbose,
                shuffle=False,
            )

    def recalibrate(self, dataset: keras.utils.PyDataset, batches: int) -> None:
        """`lib.pruning.recalibrate` on so many batches, moving on from the old statistics; 0: leaves them as they are.

        The old statistics weigh momentum^batches at the end: 1.5 % after 40 batches at a momentum of 0.9.
        """
        if batches:
            recalibrate(self.model, (dataset[batch % len(dataset)][0] for batch in range(batches)), moving=True)

    def validate(self, dataset: keras.utils.PyDataset) -> dict[str, float]:
        """The loss and its terms over a dataset, by name; weight decay and distillation are none of them."""
        with self.averaged(), whole_batches():
            losses = self.training_model.evaluate(dataset, return_dict=True, verbose=0)
        own = self.training_model.terms_of_training
        return {name: float(value) for name, value in losses.items() if name not in own}

    def save(self, path: str | Path) -> None:
        """Writes the detector alone, without the optimiser; the file is whole or absent."""
        plain = type(self.model).from_config(self.model.get_config())  # clone_model would bring the optimiser along
        for name in self._locked:
            plain.get_layer(name).trainable = True
        with self.averaged():
            plain.set_weights(self.model.get_weights())
        if present().first:
            save(plain, path)


def lock_norms(model: keras.Model) -> list[str]:
    """Locks the batch normalisations, their statistics included; returns the names of those that were not locked."""
    norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization) and x.trainable]
    for layer in norms:
        layer.trainable = False
    return [layer.name for layer in norms]


class _WeightsSurvive(keras.callbacks.Callback):
    """Undoes what Keras does after the last epoch where an optimiser averages: it overwrites the weights."""

    def __init__(self, detector: keras.Model) -> None:
        super().__init__()
        self.detector = detector
        self.kept: list[FloatArray] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.kept = self.detector.get_weights()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.detector.set_weights(self.kept)


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
    return [*model.variables, *(model.optimizer.variables if model.compiled else [])]
