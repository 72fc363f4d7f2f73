import pytest

from lib.errors import TrainingError
from lib.training.memory import memory_errors


class ResourceExhaustedError(Exception):
    """As TensorFlow's, which is no MemoryError."""


class OddRuntimeError(RuntimeError):
    """As JAX's."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        ResourceExhaustedError("OOM when allocating tensor"),
        OddRuntimeError("RESOURCE_EXHAUSTED: out of memory"),
    ],
)
def test_running_out_of_memory_names_the_batch_size(error: Exception) -> None:
    with pytest.raises(TrainingError, match=r"TRAIN\.batch_size \(now 6\)") as found, memory_errors(6, 480, 640):
        raise error
    assert "480 x 640 px" in str(found.value)
    assert found.value.__cause__ is error


def test_tensorflows_own_error_is_known() -> None:
    tf = pytest.importorskip("tensorflow")
    with pytest.raises(TrainingError, match=r"TRAIN\.batch_size"), memory_errors(1, 2, 3):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM")


def test_other_errors_pass() -> None:
    with pytest.raises(KeyError, match="x"), memory_errors(1, 2, 3):
        raise KeyError("x")
