import keras
import numpy as np
import pytest
from keras import layers

from lib.arrays import FloatArray
from lib.pruning import Masks, channel_sets, plan, repair, shrink

IMAGE = keras.Input((8, 8, 3))


def _emptied(model: keras.Model, name: str) -> Masks:
    return Masks("removable", {s.name: tuple(range(s.size)) if s.name == name else () for s in channel_sets(model)})


def _left(model: keras.Model, masks: Masks, batch: FloatArray) -> tuple[list[float], list[float]]:
    """Of each output the squared error of what is left, bare and repaired on the batch."""
    small = shrink(model, masks)

    def errors() -> list[float]:
        pairs = zip(keras.tree.flatten(model(batch)), keras.tree.flatten(small(batch)), strict=True)
        return [float(np.square(np.asarray(whole) - np.asarray(made)).sum()) for whole, made in pairs]

    bare = errors()
    repair(model, small, masks, [batch])
    return bare, errors()


def test_of_two_joined_branches_one_may_be_gone(rng: np.random.Generator) -> None:
    branches = [layers.Conv2D(4, 3, name=name)(IMAGE) for name in "ab"]
    model = keras.Model(IMAGE, layers.Dense(2)(layers.Concatenate()(branches)))
    bare, repaired = _left(model, _emptied(model, "a"), rng.normal(size=(4, 8, 8, 3)).astype(np.float32))
    assert repaired[0] < bare[0]


def test_a_norm_along_another_axis_is_left_as_it_is(rng: np.random.Generator) -> None:
    x = layers.Permute((3, 1, 2))(layers.Conv2D(6, 3)(layers.Conv2D(6, 3, activation="relu")(IMAGE)))
    x = layers.Permute((2, 3, 1))(layers.BatchNormalization(axis=1, name="along_1")(x))
    model = keras.Model(IMAGE, layers.Conv2D(2, 1)(x))
    masks = plan(model, 0.4)
    report = repair(model, shrink(model, masks), masks, [rng.normal(size=(2, 8, 8, 3)).astype(np.float32)])
    assert report.left == ("along_1",)


def test_values_of_half_precision(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where they wait in files."""
    x = layers.Conv2D(6, 3, activation="relu", dtype="mixed_bfloat16")(IMAGE)
    x = layers.SeparableConv2D(6, 3, dtype="mixed_bfloat16")(x)
    model = keras.Model(IMAGE, layers.Dense(2, dtype="mixed_bfloat16")(x))
    masks, batch = plan(model, 0.4), rng.normal(size=(2, 8, 8, 3)).astype(np.float32)
    held, filed = shrink(model, masks), shrink(model, masks)
    repair(model, held, masks, [batch])
    monkeypatch.setattr("lib.pruning.held.HELD_BYTES", 0)
    repair(model, filed, masks, [batch])
    for a, b in zip(held.get_weights(), filed.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_layer_that_always_trains_is_only_looked_at(rng: np.random.Generator) -> None:
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(6, 3)(IMAGE), training=True)
    model = keras.Model(IMAGE, layers.Dense(2)(layers.Conv2D(5, 3)(layers.ReLU()(x))))
    masks, before = plan(model, 0.4), model.get_weights()
    repair(model, shrink(model, masks), masks, [rng.normal(size=(2, 8, 8, 3)).astype(np.float32)])
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("seen", ["an output", "through a leak"])
def test_what_lies_below_zero_counts_where_it_is_seen(seen: str, rng: np.random.Generator) -> None:
    x = layers.Conv2D(8, 3, activation="relu")(IMAGE)
    y = layers.Conv2D(6, 3, bias_initializer=keras.initializers.Constant(-3.0))(x)  # next to all of it is below zero
    outputs = [y, layers.Conv2D(2, 1)(layers.ReLU()(y))] if seen == "an output" else layers.ReLU(negative_slope=0.9)(y)
    model = keras.Model(IMAGE, outputs)
    bare, repaired = _left(model, plan(model, 0.5), rng.normal(size=(16, 8, 8, 3)).astype(np.float32))
    assert repaired[0] < 0.7 * bare[0]


def test_an_operand_of_one_position_is_not_corrected_by_the_first_of_many(rng: np.random.Generator) -> None:
    x = layers.Conv2D(8, 3, padding="same", activation="relu")(IMAGE)
    pooled = layers.Conv2D(4, 1)(layers.GlobalAveragePooling2D(keepdims=True)(x))
    model = keras.Model(IMAGE, layers.Add()([layers.Conv2D(4, 3, padding="same")(x), pooled]))
    batch = rng.normal(size=(16, 8, 8, 3)).astype(np.float32)
    batch[:, :3, :3] *= 12  # the first position is unlike the others
    bare, repaired = _left(model, plan(model, 0.6), batch)
    assert repaired[0] < 0.6 * bare[0]


def test_what_follows_each_call_of_a_shared_layer_is_solved(rng: np.random.Generator) -> None:
    """Only one of its calls reads fewer channels, but the other has new weights too."""
    image = keras.Input((8, 8, 8))
    shared = layers.Conv2D(8, 3, padding="same", name="shared")
    narrowed = shared(
        layers.Conv2D(8, 3, padding="same")(layers.Conv2D(6, 3, padding="same", activation="relu")(image))
    )
    model = keras.Model(image, [layers.Conv2D(3, 1, name="behind")(shared(image)), narrowed])
    masks = plan(model, 0.6, protected=("shared",))
    report = repair(model, shrink(model, masks), masks, [rng.normal(size=(4, 8, 8, 8)).astype(np.float32)])
    assert {"shared", "behind"} <= {layer.name for layer in report.layers}
