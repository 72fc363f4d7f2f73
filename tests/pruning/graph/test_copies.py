from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from lib.models.folding import fold_batch_norms
from lib.pruning import largest_difference, plan, shrink
from lib.pruning.graph.calls import Call, Calls
from lib.pruning.graph.copies import copied, give_weights, rebuilt
from tests.networks import nested_networks


def _as_it_is(model: keras.Model) -> keras.Model:
    calls, copies = Calls(model), dict[int, Any]()

    def make(_: int, call: Call, tensors: dict[int, Any]) -> Any:
        copy = copies.setdefault(id(call.layer), copied(call.layer))
        args, kwargs = call.arguments(tensors)
        return copy(*args, **kwargs)

    made = rebuilt(calls, make)
    for call in calls.calls:
        if isinstance(call.layer, layers.Layer):
            give_weights(copies[id(call.layer)], call.layer.get_weights())
    return made


WAYS: dict[str, Callable[[keras.Model], keras.Model]] = {
    "rebuilt": _as_it_is,
    "shrunk": lambda model: shrink(model, plan(model, 0.0)),
    "folded": fold_batch_norms,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", nested_networks())
def test_a_copy_computes_the_same(way: str, name: str, rng: np.random.Generator) -> None:
    model = nested_networks()[name]()
    copy = WAYS[way](model)
    assert copy is not model and not any(isinstance(layer, keras.Model) for layer in copy.layers)
    images = rng.uniform(0, 255, (2, 16, 16, 3)).astype(np.float32)
    assert largest_difference(model, copy, images) < 1e-4


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("nested", [False, True])
def test_what_a_layer_adapted_to_is_copied(way: str, nested: bool, rng: np.random.Generator) -> None:
    adapted = layers.Normalization(name="adapted")
    images = rng.uniform(0, 255, (8, 16, 16, 3)).astype(np.float32)
    adapted.adapt(images)
    image = keras.Input((16, 16, 3))
    x = adapted(image)
    if nested:
        inside = keras.Input((16, 16, 3))
        x = keras.Model(inside, adapted(inside), name="nested")(image)
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, name="a")(x))
    model = keras.Model(image, layers.Conv2D(2, 1, name="head")(x))
    assert largest_difference(model, WAYS[way](model), images) < 1e-5
