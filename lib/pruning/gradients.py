"""Gradients of a loss by a model's weights, on whichever backend Keras runs."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from lib.arrays import FloatArray

Loss = Callable[[Any, Any], Any]  # (targets, outputs) -> a scalar, or values that are averaged


def gradients(model: keras.Model, inputs: Any, targets: Any, loss: Loss) -> list[FloatArray | None]:
    """Of each weight in `model.weights`, as float64; None where nothing flows. Layers behave as in inference."""
    of = {
        "tensorflow": _by_tensorflow,
        "jax": _by_jax,
        "torch": _by_torch,
    }[keras.backend.backend()]
    found = of(model, inputs, targets, loss)
    return [None if one is None else keras.ops.convert_to_numpy(one).astype(np.float64) for one in found]


def _by_tensorflow(model: keras.Model, inputs: Any, targets: Any, loss: Loss) -> list[Any]:
    import tensorflow as tf

    variables = [weight.value for weight in model.weights]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        for variable in variables:
            if variable.dtype.is_floating:
                tape.watch(variable)
        value = keras.ops.mean(loss(targets, model(inputs, training=False)))
    found = tape.gradient(value, variables)
    return [tf.convert_to_tensor(one) if isinstance(one, tf.IndexedSlices) else one for one in found]


def _by_jax(model: keras.Model, inputs: Any, targets: Any, loss: Loss) -> list[Any]:
    import jax

    def value_of(moving: list[Any], still: list[Any]) -> Any:
        outputs, _ = model.stateless_call(moving, still, inputs, training=False)
        return keras.ops.mean(loss(targets, outputs))

    halves = model.trainable_variables, model.non_trainable_variables
    values = [[variable.value for variable in half] for half in halves]
    found = jax.grad(value_of, argnums=(0, 1), allow_int=True)(*values)
    pairs = zip([*halves[0], *halves[1]], [*found[0], *found[1]], strict=True)
    by_weight = {id(variable): None if one.dtype == jax.dtypes.float0 else one for variable, one in pairs}
    return [by_weight[id(weight)] for weight in model.weights]


def _by_torch(model: keras.Model, inputs: Any, targets: Any, loss: Loss) -> list[Any]:
    for weight in model.weights:
        weight.value.grad = None
    keras.ops.mean(loss(targets, model(inputs, training=False))).backward()
    found = [weight.value.grad for weight in model.weights]
    for weight in model.weights:
        weight.value.grad = None
    return found
