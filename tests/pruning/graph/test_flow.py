import keras
import numpy as np
from keras import layers, ops

from lib.pruning.graph.calls import Calls
from lib.pruning.graph.flow import Flow


def test_numbers_axes_and_ties() -> None:
    image = keras.Input((4, 4, 3))
    x = layers.Conv2D(6, 1, name="a")(image)
    x = ops.transpose(ops.reshape(x, (-1, 16, 2, 3)), (0, 3, 1, 2))
    flow = Flow(Calls(keras.Model(image, ops.relu(x))))
    assert [step.kind for step in flow.steps] == ["make", "move", "move", "pass"]
    assert [flow.axes[step.call.outputs[0]] for step in flow.steps] == [3, 3, 1, 1]
    made, *behind = [flow.channels[step.call.outputs[0]].tolist() for step in flow.steps]
    assert behind == [made[:3]] * 3  # the halves of a reshape go together: one stands for both
    ties = [(a.tolist(), b.tolist()) for a, b in flow.ties]
    assert ties == [([made[:3]] * 2, [made[:3], made[3:]]), ([made[:3]], [made[:3]])]


def test_constants_and_shapes_for_fewer_channels() -> None:
    image = keras.Input((4, 4, 3))
    x = layers.Conv2D(4, 1)(image)
    x = layers.Reshape((16, 4))(x * np.arange(4.0, dtype=np.float32))
    flow = Flow(Calls(keras.Model(image, x)))
    kept = dict.fromkeys((1, 2, 3), np.array([True, False, False, True]))
    changes, arguments = flow.for_fewer(flow.steps[1], kept)
    assert changes == {}
    assert arguments is not None
    np.testing.assert_array_equal(arguments[0][1], [0, 3])
    assert flow.for_fewer(flow.steps[2], kept) == ({"target_shape": (16, 2)}, None)
