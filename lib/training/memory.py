"""Memory while training: what to do when it runs out, and how it is handed from one step to the next."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from lib.errors import TrainingError

# TensorFlow's, torch's and Python's own; JAX has but one class for everything, and says so in the text.
_CLASSES = ("ResourceExhaustedError", "OutOfMemoryError", "MemoryError")
_TEXT = "RESOURCE_EXHAUSTED"

# Parameters of glibc's mallopt, see mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD = -1, -2


def keep_freed_memory() -> bool:
    """Lets this process keep the memory that a step frees for the next one; returns whether it could.

    By default glibc hands large blocks back to the kernel at once, and every step faults all its pages in again: 1,700
    faults a photograph of 320x320 px, a sixth of the step's CPU time. The process stays as large as it once was.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    return mallopt is not None and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1)) and bool(mallopt(_TOP_PAD, 64 << 20))


@contextmanager
def memory_errors(batch_size: int, height_px: int, width_px: int) -> Iterator[None]:
    """Turns running out of memory inside it into a TrainingError that says which settings to lower."""
    try:
        yield
    except Exception as error:
        if "No space left" in str(error):  # TensorFlow says so of disks in the same class
            raise TrainingError(f"the disk is full ({error}); make room, and the same command goes on") from error
        classes = {parent.__name__ for parent in type(error).__mro__}
        if not classes.intersection(_CLASSES) and _TEXT not in str(error):
            raise
        raise TrainingError(
            f"memory ran out while training on batches of {batch_size} images of {height_px} x {width_px} px; lower "
            f"TRAIN.batch_size (now {batch_size}), or else DATA.hin and DATA.win"
        ) from error
