import subprocess
import sys
from pathlib import Path

import pytest

from lib.errors import TrainingError
from lib.training.memory import memory_errors

_FAULTS = """
import ctypes, resource
from lib.training.memory import keep_freed_memory
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

def rounds():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        block = libc.malloc(ctypes.c_size_t(16 << 20))
        ctypes.memset(block, 1, 16 << 20)
        libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = rounds()
print(keep_freed_memory(), first, (rounds(), rounds())[1])
"""


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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_what_is_freed_is_not_faulted_in_again() -> None:
    root = Path(__file__).parents[2]
    made = subprocess.run([sys.executable, "-c", _FAULTS], cwd=root, capture_output=True, text=True, check=True)
    could, _, after = made.stdout.split()
    if could != "True":
        pytest.skip("this C library has no mallopt")
    assert int(after) < 16
