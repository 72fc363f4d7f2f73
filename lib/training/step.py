"""The model that Keras trains: the detector's own layers, with a loss of named terms, precision and replicas."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
from keras import ops

from lib.pruning import HeldMasks
from lib.training.devices import replicas
from lib.training.distillation import Distillation
from lib.training.simota import MatchingLoss
from lib.training.strides import narrow_strided, sliced

PRUNING_TERM = "pruning_loss"
DECAY_TERM = "weight_decay_loss"


class TrainingModel(keras.Model):
    """A detector's layers in a model with the training loss. Nothing of it is saved: the detector is.

    Terms: one a named output, as `OUTPUT_loss`; the model's own losses, which are the activity
    regularisers of group sparsity, as `pruning_loss`; coupled weight decay as `weight_decay_loss` and what a teacher
    would have otherwise, by output, as `distil_OUTPUT_loss`, both in training only. They add up to `loss`.

    Args:
        detector: a functional model; its layers and weights are shared, not copied.
        decay: weight of half the sum of squares of everything trainable, batch normalisation and biases included, as
            torch's optimisers do; 0: none.
        precision: "off", or the type in which the layers before the heads compute: "bfloat16" or "float16". Weights,
            the heads, the losses and a teacher stay float32.
        distillation: the teacher, run on the same images; None: there is none.
        matching: in place of a loss for each output, the terms of a detector whose faces are matched in the step.
        held: the masks that the step keeps at zero.
        controls: what else may change between two steps without compiling again.

    Attributes:
        traces: how often the training step was traced.

    """

    def __init__(
        self,
        detector: keras.Model,
        decay: float = 0.0,
        precision: str = "off",
        distillation: Distillation | None = None,
        matching: MatchingLoss | None = None,
        held: HeldMasks | None = None,
        controls: Sequence[keras.Variable] = (),
    ) -> None:
        super().__init__(inputs=detector.inputs, outputs=detector.output, name=detector.name)
        self.decay = decay
        self.traces = 0
        self._half = _before_the_heads(detector) if precision != "off" else []
        self._policy = keras.dtype_policies.DTypePolicy(f"mixed_{precision}") if precision != "off" else None
        self._norms = [layer for layer in self.layers if isinstance(layer, keras.layers.BatchNormalization)]
        self._narrow = narrow_strided(detector)
        self._pruning_term = keras.metrics.Mean(name=PRUNING_TERM) if _has_regularizers(detector) else None
        self._decay_term = keras.metrics.Mean(name=DECAY_TERM) if decay else None
        self._matching = matching
        self._matching_terms = [keras.metrics.Mean(name=name) for name in (matching.names if matching else ())]
        self._distillation = distillation
        self._held = held
        # As variables of this model they are given to JAX's step, which would else take them for constants.
        self._controls = [*(held.variables if held else ()), *controls]
        self._distil_terms = [keras.metrics.Mean(name=name) for name in (distillation.names if distillation else ())]

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        with self._settings_of_the_step():
            outputs = super().call(inputs, training=training, mask=mask)
        return {name: ops.cast(value, "float32") for name, value in outputs.items()}

    def train_step(self, *arguments: Any) -> Any:
        """Keras' step; on JAX of (state, data), of which the optimiser's part would not see the masks."""
        if keras.backend.backend() != "jax" or self._held is None:
            return super().train_step(*arguments)
        given = dict(zip(map(id, self.non_trainable_variables), arguments[0][1], strict=True))
        with self._held.reading([given[id(kept)] for kept in self._held.variables]):
            return super().train_step(*arguments)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        self.traces += bool(training)
        if self._matching is None:
            total = super().compute_loss(x, y, y_pred, sample_weight)
        else:
            total = sum(self.losses) + _logged(self._matching_terms, self._matching.terms(x, y, y_pred))
        if self._pruning_term is not None:
            self._pruning_term.update_state(sum(self.losses))
        if self._decay_term is not None and training:
            decay = 0.5 * self.decay * sum(ops.sum(ops.square(w)) for w in self.trainable_variables)
            self._decay_term.update_state(decay)
            total = total + decay / replicas()  # gradients are summed over replicas
        if self._distillation is not None and training:
            total = total + _logged(self._distil_terms, self._distillation.terms(x, y_pred))
        return total

    @property
    def terms_of_training(self) -> tuple[str, ...]:
        """The names of the terms that only training has; in validation they are 0."""
        return (DECAY_TERM, *(term.name for term in self._distil_terms))

    def make_metrics(self) -> None:
        """Makes the terms' means now, once compiled: variables made while the step is traced cost a second trace."""
        if self._matching is not None:
            return  # they have been made
        widths = {name: tensor.shape[-1] for name, tensor in self.output.items()}
        predicted = {name: ops.zeros((1, 1, width)) for name, width in widths.items()}
        truth = {name: ops.zeros((1, 1, 5) if width == 4 else (1, 1)) for name, width in widths.items()}
        self.compute_loss(None, truth, predicted, training=False)
        self.reset_metrics()

    @contextmanager
    def _settings_of_the_step(self) -> Iterator[None]:
        """What differs from the saved detector while the step is traced.

        Precision, statistics of all replicas, and how narrow strided convolutions are computed.
        """
        policies = [layer.dtype_policy for layer in self._half]
        synchronized = [layer.synchronized for layer in self._norms]
        try:
            for layer in self._half:
                layer.dtype_policy = self._policy
            for layer in self._norms if replicas() > 1 else ():
                layer.synchronized = True
            with sliced(self._narrow):
                yield
        finally:
            for layer, policy in zip(self._half, policies, strict=True):
                layer.dtype_policy = policy
            for layer, before in zip(self._norms, synchronized, strict=True):
                layer.synchronized = before


def _logged(means: list[keras.metrics.Mean], terms: dict[str, Any]) -> Any:
    """The sum of a replica's terms, each taken into the mean of its name."""
    for mean in means:
        mean.update_state(terms[mean.name] * replicas())  # each has its share, and the log their mean
    return sum(terms.values())


def _has_regularizers(detector: keras.Model) -> bool:
    return any(layer.activity_regularizer is not None for layer in detector.layers)


def inner_kernels(detector: keras.Model) -> list[str]:
    """The paths of the kernels of convolutions and dense layers, but those of the heads: what "muon" is for.

    Grouped convolutions are left out: their kernel is several matrices.
    """
    kinds = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D, keras.layers.Dense)
    layers = [inner for layer in _before_the_heads(detector) for inner in layer._flatten_layers()]
    return [x.kernel.path for x in layers if isinstance(x, kinds) and getattr(x, "groups", 1) == 1]


def _before_the_heads(detector: keras.Model) -> list[keras.layers.Layer]:
    """All layers but those from the last weights on the way to an output: their numbers are the predictions."""
    heads: set[str] = set()
    tensors = list(keras.tree.flatten(detector.output))
    while tensors:
        layer, node, _ = tensors.pop()._keras_history
        heads.add(layer.name)
        if not layer.weights:
            tensors += layer._inbound_nodes[node].input_tensors
    return [layer for layer in detector.layers if layer.name not in heads]
