"""More than one device: the batch is split over replicas of the model (TensorFlow's MirroredStrategy).

TensorFlow is imported where it is needed, so that training on one device runs on any backend.
"""

from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import keras

from lib.errors import ConfigError
from lib.training.processes import distributed


def scope(count: int) -> AbstractContextManager[Any]:
    """The scope in which to make a model and an optimiser that train on `count` devices; each time the same one.

    Devices are GPUs, or TensorFlow's logical CPUs where there is no GPU. With a count of 1 they are those that
    `lib.training.processes` has joined, or the only one.

    Raises:
        ConfigError: there are fewer devices, or the backend is not TensorFlow.

    """
    if count <= 1:
        return distributed()
    if keras.backend.backend() != "tensorflow":
        raise ConfigError(
            f"TRAIN.num_gpu={count} needs the TensorFlow backend, this is {keras.backend.backend()}; "
            "set TRAIN.num_gpu=1 or KERAS_BACKEND=tensorflow"
        )
    return _strategy(count).scope()


@cache  # what one strategy's scope made cannot be trained in another's
def _strategy(count: int) -> Any:
    import tensorflow as tf

    found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(found) < count:
        raise ConfigError(f"TRAIN.num_gpu={count}, but there are {len(found)} devices: {[d.name for d in found]}")
    return tf.distribute.MirroredStrategy([device.name for device in found[:count]])


def replicas() -> int:
    """How many replicas share the step that is being traced; 1 outside of any."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def sum_over_replicas(value: Any) -> Any:
    """The sum of a tensor over all replicas; the tensor itself where there is one. No gradient flows through."""
    if replicas() == 1:
        return value
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return value if context is None else context.all_reduce("sum", tf.stop_gradient(value))
