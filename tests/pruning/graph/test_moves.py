from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from lib.pruning.graph.calls import Calls
from lib.pruning.graph.moves import moved, narrowed, same_move

X = keras.Input((4, 4, 6))


def _moved(made: Any) -> tuple[Calls, Any]:
    calls = Calls(keras.Model(X, made))
    return calls, moved(calls.calls[0], calls.shapes, {0: 3}, np.arange(6))


@pytest.mark.parametrize(
    ("made", "axis", "index"),
    [
        (ops.transpose(X, (0, 3, 1, 2)), 1, [[0, 1, 2, 3, 4, 5]]),
        (X[..., 1:4], 3, [[1, 2, 3]]),
        (X[:, 0], 2, [[0, 1, 2, 3, 4, 5]]),
        (X[:, :, None], 4, [[0, 1, 2, 3, 4, 5]]),
        (ops.flip(X, axis=-1), 3, [[5, 4, 3, 2, 1, 0]]),
        (ops.take(X, np.array([2, 2, 0]), axis=-1), 3, [[2, 2, 0]]),
        (ops.reshape(X, (-1, 16, 2, 3)), 3, [[0, 1, 2], [3, 4, 5]]),
        (layers.Reshape((16, 2, 3))(X), 3, [[0, 1, 2], [3, 4, 5]]),
        (layers.Flatten()(X), 1, [list(range(6)) * 16]),
    ],
)
def test_where_channels_go(made: Any, axis: int, index: list[list[int]]) -> None:
    _, (found,) = _moved(made)
    assert found.axis == axis
    np.testing.assert_array_equal(found.index, index)


@pytest.mark.parametrize("made", [X[..., ::2], X[..., 2], ops.reshape(X, (-1,))])
def test_what_cannot_be_put_for_fewer_channels_is_not_followed(made: Any) -> None:
    assert _moved(made)[1] is None


def test_a_slice_keeps_what_is_kept_of_it() -> None:
    calls, (found,) = _moved(X[..., 1:4])
    kept = np.array([True, False, True, True, False, True])
    both = {0: kept, 1: kept[1:4]}
    changes, arguments = narrowed(calls.calls[0], calls.shapes, {0: 3, 1: 3}, both, (found.index,))
    assert (changes, arguments[0][1][-1]) == ({}, slice(1, 3))
    call = calls.calls[0]
    for wrong, same in ((arguments, True), (((arguments[0][0], (Ellipsis, slice(0, 2))), {}), False)):
        assert same_move(call, (call.layer, wrong), calls.shapes, {0: 3, 1: 3}, both, (found.index,)) is same
