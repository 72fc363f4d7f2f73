"""What to do when memory runs out, in place of a runtime's own message."""

from collections.abc import Iterator
from contextlib import contextmanager

from lib.errors import TrainingError

# TensorFlow's, torch's and Python's own; JAX has but one class for everything, and says so in the text.
_CLASSES = ("ResourceExhaustedError", "OutOfMemoryError", "MemoryError")
_TEXT = "RESOURCE_EXHAUSTED"


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
