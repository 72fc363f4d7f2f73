import keras
import numpy as np
from keras import layers

from lib.pruning.gradients import gradients


def test_of_a_linear_model_they_are_known(rng: np.random.Generator) -> None:
    vector = keras.Input((3,))
    x = layers.Dense(2, name="dense")(layers.BatchNormalization(name="norm")(vector))
    model = keras.Model(vector, layers.Dropout(0.5)(x))  # neither drops nor normalises by the batch here
    inputs, targets = rng.normal(size=(4, 3)), rng.normal(size=(4, 2))
    found = dict(
        zip(
            (weight.path for weight in model.weights),
            gradients(model, inputs.astype(np.float32), targets.astype(np.float32), keras.losses.MeanSquaredError()),
            strict=True,
        )
    )
    read = inputs / np.sqrt(1 + model.get_layer("norm").epsilon)
    missed = 2 * (read @ np.asarray(model.get_layer("dense").kernel) - targets) / targets.size
    np.testing.assert_allclose(found["dense/kernel"], read.T @ missed, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["dense/bias"], missed.sum(axis=0), rtol=1e-4, atol=1e-6)
