"""How the pruning rate grows over the epochs of a stage: TensorFlow Model Optimization's schedules."""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from lib.errors import ConfigError

ScheduleName = Literal["constant", "polynomial"]
Schedule = Callable[[int], tuple[bool, float]]


def pruning_schedule(name: ScheduleName, rate: float, every: int, epochs: int) -> Schedule:
    """A function from the epochs done, 1 .. `epochs`, to (prune now?, rate).

    Pruned is after every `every` epochs, and after the last one at the full rate. A growing rate is full one pruning
    before that, so that the last one takes away what the network has learnt to do without.

    Args:
        name: "constant": the full rate each time (`ConstantSparsity`). "polynomial": a rate that grows from 0, at first
            fast: when the share p of the growth's epochs is over it is rate * (1 - (1 - p)^3) (`PolynomialDecay`; Zhu
            and Gupta, arXiv 1710.01878, section 3).
        rate: the full rate, 0..1.

    Raises:
        ConfigError: "polynomial", and tensorflow-model-optimization cannot be imported.

    """
    grown = (epochs - 1) // every * every  # the last pruning but one
    library = _library()
    if library is not None:
        below_one = min(rate, 1 - 1e-7)  # the library takes no 1; the rounding below brings it back
        known = library.PolynomialDecay if name == "polynomial" else library.ConstantSparsity
        options = (
            {"initial_sparsity": 0.0, "final_sparsity": below_one}
            if name == "polynomial"
            else {"target_sparsity": below_one}
        )
        schedule = known(**options, begin_step=0, end_step=grown or epochs, frequency=every)
    elif name == "polynomial":
        raise ConfigError(
            "the schedule 'polynomial' is tensorflow-model-optimization's, which cannot be imported here; install it, "
            "or take the schedule 'constant'"
        )

    def at(epochs_done: int) -> tuple[bool, float]:
        if epochs_done == epochs:
            return True, rate
        if library is None:
            return epochs_done % every == 0, rate
        now, share = schedule(epochs_done)
        return bool(now), round(float(share), 6)  # float32 0.29 is less than 0.29, and floor(0.29 * 100) is to be 29

    return at


def _library() -> Any:
    """The module of the schedules, None where it or TensorFlow is not installed. Takes seconds the first time."""
    try:
        with _environment_kept(), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # its own, of Python's distutils
            from tensorflow_model_optimization import sparsity
    except ImportError:
        return None
    return sparsity.keras


@contextmanager
def _environment_kept() -> Iterator[None]:
    """Undoes what an import does to os.environ: this one switches every later process to Keras 2."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
