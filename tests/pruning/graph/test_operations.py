import keras
import numpy as np
import pytest
from keras import ops

from lib.pruning.graph.calls import Calls
from lib.pruning.graph.flow import Flow, Step


def test_bare_operations() -> None:
    a, b = keras.Input((8, 8, 6)), keras.Input((8, 8, 6))
    for made, kind, keeps in [
        (a + b, "sum", None),
        (a - b, "sum", None),
        (a * b, "product", None),
        (a + 3.0, "pass", False),
        (a * 0.5, "pass", True),
        (a / b, "opaque", None),
        (keras.ops.sum(a, axis=-1, keepdims=True), "opaque", None),
        (keras.ops.softmax(a), "opaque", None),
    ]:
        flow = Flow(Calls(keras.Model([a, b], [made, b + a])))
        step = next(step for step in flow.steps if flow.calls.outputs[0] in step.call.outputs)
        assert step.kind == kind
        assert keeps is None or step.keeps == keeps


def _step(made: keras.KerasTensor, *inputs: keras.KerasTensor) -> Step:
    return Flow(Calls(keras.Model(inputs, made))).steps[-1]


X = keras.Input((8, 8, 6))
VECTOR = np.arange(6, dtype=np.float32)


@pytest.mark.parametrize(
    ("made", "kind", "keeps"),
    [
        (ops.gelu(X), "pass", True),
        (ops.sigmoid(X), "pass", False),
        (X * VECTOR, "pass", True),
        (X + VECTOR, "pass", False),
        (X / 3.0, "pass", True),
        (1.0 / X, "opaque", None),
        (ops.log(X), "opaque", None),
        (X * np.ones((8, 8, 6), np.float32), "pass", True),
        (ops.mean(X, axis=(1, 2)), "pass", True),
        (ops.mean(X, axis=-1), "opaque", None),
        (ops.max(X), "opaque", None),
        (ops.max_pool(X, 2), "pass", True),
        (ops.normalize(X, axis=-1), "l2norm", None),
        (ops.normalize(X, axis=1), "opaque", None),
        (ops.cumsum(X, axis=-1), "opaque", None),
        (X[..., 2:4], "move", None),
        (X[..., ::2], "opaque", None),
        (X[..., 1], "opaque", None),
        (ops.roll(X, 1, axis=-1), "opaque", None),
    ],
)
def test_operations_of_one_tensor(made: keras.KerasTensor, kind: str, keeps: bool | None) -> None:
    step = _step(made, X)
    assert step.kind == kind
    assert keeps is None or step.keeps == keeps
    assert not step.refused


def test_one_value_for_all_channels_is_beside_them() -> None:
    y = keras.Input((8, 8, 1))
    step = _step(y * X, X, y)
    assert (step.kind, step.main, step.keeps) == ("pass", 1, True)
    assert step.beside == [1]
    assert not _step(X + y, X, y).keeps
    assert _step(y / X, X, y).kind == "opaque"
