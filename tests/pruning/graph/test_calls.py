import keras
import pytest
from keras import layers

from lib.errors import ModelError
from lib.pruning.graph.calls import Call, Calls, layers_of


def _names(graph: Calls) -> list[str]:
    return [call.layer.name for call in graph.calls]


def test_producers_come_first_and_tensors_match() -> None:
    image = keras.Input((8, 8, 3))
    a = layers.Conv2D(4, 1, name="a")(image)
    b = layers.Conv2D(4, 1, name="b")(a)
    model = keras.Model(image, {"sum": layers.Add(name="sum")([a, b]), "a": a})
    graph = Calls(model)
    assert _names(graph) == ["a", "b", "sum"]
    first, second, third = graph.calls
    assert second.inputs == first.outputs
    assert third.inputs == (*first.outputs, *second.outputs)
    assert graph.outputs == (*first.outputs, *third.outputs)  # "a" before "sum", as Keras orders a dict
    assert graph.shapes[graph.outputs[0]] == (None, 8, 8, 4)


def test_a_nested_model_is_taken_apart_at_every_use() -> None:
    inner_input = keras.Input((None, None, 3))
    inner = keras.Model(inner_input, layers.Conv2D(3, 3, name="inside")(inner_input), name="inner")
    image = keras.Input((None, None, 3))
    once = inner(image)
    model = keras.Model(image, layers.Add(name="sum")([layers.ZeroPadding2D(1, name="pad")(once), image]))
    twice = keras.Model(image, inner(inner(image)))
    assert _names(Calls(model)) == ["inside", "pad", "sum"]
    graph = Calls(twice)
    assert _names(graph) == ["inside", "inside"]
    assert graph.calls[1].inputs == graph.calls[0].outputs
    assert graph.shapes_at(10, 12)[graph.outputs[0]] == (1, 6, 8, 3)


def test_shapes_at_a_size() -> None:
    image = keras.Input((None, None, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same")(image)
    model = keras.Model(image, [x, layers.Dense(5)(layers.GlobalMaxPooling2D()(x))])
    graph = Calls(model)
    assert [graph.shapes_at(11, 8)[number] for number in graph.outputs] == [(1, 6, 4, 4), (1, 5)]


def test_shapes_are_those_of_what_is_computed() -> None:
    image = keras.Input((None, None, 3))
    a = layers.BatchNormalization()(layers.Conv2D(4, 3, strides=2, padding="same")(image))
    b = layers.UpSampling2D(2)(layers.MaxPooling2D(2)(layers.ZeroPadding2D(((0, 1), (1, 2)))(a)))
    b = layers.Concatenate()([layers.Resizing(6, 8)(a), layers.Resizing(6, 8)(b)])
    rows = layers.Reshape((-1, 8))(b)
    attended = layers.MultiHeadAttention(2, 4)(rows, rows)
    states = layers.LSTM(5, return_sequences=True, return_state=True)(attended)
    words = layers.Embedding(8, 3)(keras.ops.argmax(rows, axis=-1))  # of whole numbers
    halves = keras.ops.split(words, 2, axis=-2)
    model = keras.Model(image, [a, b, attended, *states, words, *halves])
    graph = Calls(model)
    shapes = graph.shapes_at(13, 18)
    assert [shapes[number] for number in graph.outputs] == [
        tuple(made.shape) for made in model(keras.ops.zeros((1, 13, 18, 3)))
    ]


def test_a_sequential_model_is_functional_once_built_and_others_are_not() -> None:
    built = keras.Sequential([keras.Input((4, 4, 3)), layers.Conv2D(2, 1, name="a")])
    assert _names(Calls(built)) == ["a"]
    with pytest.raises(ModelError, match="empty is no functional model"):
        Calls(keras.Sequential(name="empty"))


def _nested() -> keras.Model:
    """image -> nested: a, norm -> a -> sum with itself; both convolutions are called "a"."""
    inside = keras.Input((4, 4, 3))
    made = layers.BatchNormalization(name="norm")(layers.Conv2D(2, 1, name="a")(inside))
    image = keras.Input((4, 4, 3))
    x = layers.Conv2D(2, 1, name="a")(keras.Model(inside, made, name="nested")(image))
    return keras.Model(image, layers.Add(name="sum")([x, x]))


def test_readers_of_a_tensor_are_found_across_the_ends_of_nested_models() -> None:
    graph = Calls(_nested())
    assert _names(graph) == ["a", "norm", "a", "sum"]
    assert [graph.readers[number] for number in range(len(graph.shapes))] == [[0], [1], [2], [3], []]
    assert list(graph.names.values()) == ["a", "norm", "a#2", "sum"]


def test_layers_of_nested_models_are_listed_in_their_place() -> None:
    names = [layer.name for layer in layers_of(_nested()) if not isinstance(layer, layers.InputLayer)]
    assert names == ["a", "norm", "a", "sum"]


def test_what_is_followed_comes_by_once_and_is_let_go() -> None:
    graph = Calls(_nested())
    held: list[int] = []

    def behind(call: Call, given: dict[int, int]) -> list[int]:
        held.append(len(given))
        return [1 + sum(given[number] for number in call.inputs)] * len(call.outputs)

    assert dict(graph.follow({graph.inputs[0]: 0}, behind)) == {0: 0, 1: 1, 2: 2, 3: 3, 4: 7}
    assert max(held) == 1
