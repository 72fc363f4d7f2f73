"""KerasTuner's tuner of the search: has the oracle's plans measured, alone or as one of many workers."""

import math
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, perf_counter, sleep
from typing import Any, Literal

import keras_tuner

from lib.errors import ConfigError, TrainingError
from lib.search.oracle import Proposal, SearchOracle, proposal_of

Role = Literal["alone", "chief", "worker"]

PENALTY_WINDOW = 0.04  # B-FPGM, section 4.2: how far sparsity may miss its target
PENALTY_OUTSIDE = 100.0
_POLL_S = 1.0


@dataclass(frozen=True)
class Measurement:
    """What training a plan for a short while gave.

    Attributes:
        val_loss: on the validation images.
        average_precision: on them, where that is the objective.

    """

    val_loss: float
    average_precision: float | None = None


Measure = Callable[[Proposal], Measurement]


class SearchTuner(keras_tuner.Tuner):
    """Runs the trials of a search. `search()` returns when no trial is left.

    With KERASTUNER_ORACLE_IP, KERASTUNER_ORACLE_PORT and KERASTUNER_TUNER_ID set, the process whose id contains
    "chief" hands out the trials and keeps the record, and the others run them.

    Args:
        oracle: hands out the plans.
        measure: trains and validates one plan.
        folder: where the trials are kept; a search that is there goes on.
        regularization_coefficient: weight of `penalty` in the objective.
        chief_wait_s: how long a worker waits for its chief to answer.

    Raises:
        ConfigError: the environment names a chief in part.
        TrainingError: this is a worker and its chief does not answer.

    """

    def __init__(
        self,
        oracle: SearchOracle,
        measure: Measure,
        folder: str | Path,
        regularization_coefficient: float = 5.0,
        chief_wait_s: float = 60.0,
    ) -> None:
        self.role = role_from_environment()
        if self.role == "worker":
            _wait_for_chief(chief_wait_s)
        self.space = oracle.space
        self.measure = measure
        self.regularization_coefficient = regularization_coefficient
        self._asked = 0.0
        super().__init__(oracle, directory=str(Path(folder).parent), project_name=Path(folder).name)
        if self.role != "worker":
            oracle.reload()

    def run_trial(self, trial: Any, *_: Any, **__: Any) -> dict[str, float]:
        proposal = proposal_of(trial)
        start = perf_counter()
        found = self.measure(proposal)
        miss = self.regularization_coefficient * penalty(1 - self.space.share(proposal.kept), 1 - proposal.target)
        result = {
            "objective": (-found.val_loss if found.average_precision is None else found.average_precision) - miss,
            "val_loss": found.val_loss,
            "seconds": perf_counter() - start,
        }
        if not all(math.isfinite(value) for value in result.values()):
            raise keras_tuner.errors.FailedTrialError(f"not finite: {result}")
        return result

    def pre_create_trial(self) -> None:
        """A worker that is told to wait asks again a second later, not at once."""
        if self.role == "worker":
            sleep(max(0.0, self._asked + _POLL_S - monotonic()))
            self._asked = monotonic()

    def on_trial_end(self, trial: Any) -> None:
        self.oracle.end_trial(trial)
        self._asked = 0.0

    def save(self) -> None:
        """The oracle writes itself, and there is nothing else to write."""

    def reload(self) -> None:
        """The oracle reads itself, and there is nothing else to read."""


def penalty(pruned: float, target: float) -> float:
    """B-FPGM's penalty of a pruned share against its target (its section 4.2, as its code has it).

    0 up to 4 points above the target, the miss up to 4 points below it, 100 outside. Plans on the budget pay nothing,
    or at most the tolerance.
    """
    miss = pruned - target
    if abs(miss) >= PENALTY_WINDOW:
        return PENALTY_OUTSIDE
    return max(0.0, -miss)


def role_from_environment() -> Role:
    """Whether this process searches alone, is the chief of a search or one of its workers.

    Raises:
        ConfigError: only some of KERASTUNER_ORACLE_IP, KERASTUNER_ORACLE_PORT and KERASTUNER_TUNER_ID are set.

    """
    names = ("KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT", "KERASTUNER_TUNER_ID")
    missing = [name for name in names if not os.environ.get(name)]
    if len(missing) == len(names):
        return "alone"
    if missing:
        raise ConfigError(
            f"{', '.join(missing)}: not set; a search on many machines needs {', '.join(names)} in every process "
            "(unset them all to search alone)"
        )
    return "chief" if "chief" in os.environ["KERASTUNER_TUNER_ID"] else "worker"


def _wait_for_chief(seconds: float) -> None:
    host, port = os.environ["KERASTUNER_ORACLE_IP"], os.environ["KERASTUNER_ORACLE_PORT"]
    if not port.isdigit():
        raise ConfigError(f"KERASTUNER_ORACLE_PORT must be a port number, got {port!r}")
    end = monotonic() + seconds
    while True:
        with suppress(OSError), socket.create_connection((host, int(port)), timeout=5):
            return
        if monotonic() > end:
            raise TrainingError(
                f"no chief of the search answers at {host}:{port}; start the same command first with "
                "KERASTUNER_TUNER_ID=chief, or correct KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT"
            )
        sleep(min(1.0, seconds / 5 + 0.01))


def as_environment(role_id: str, host: str, port: int) -> Mapping[str, str]:
    """The variables that make a process the chief ("chief") or a worker (any other id) of a search."""
    return {
        "KERASTUNER_TUNER_ID": role_id,
        "KERASTUNER_ORACLE_IP": host,
        "KERASTUNER_ORACLE_PORT": str(port),
    }
