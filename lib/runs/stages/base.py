"""What a stage is, and which may follow which."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import keras

from lib.config import in_order
from lib.errors import TrainingError
from lib.runs.workbench import Workbench

Thing = Literal["model", "masks", "rates", "removal"]


class Stage(ABC):
    """A step from one model to the next, done once in a run.

    Attributes:
        name: as TRAIN.stages has it.
        needs: what an earlier stage must have left.
        leaves: what is there after it.
        again: whether it is run also where it was finished before, on what has come since.
        shared: whether all processes that train together work at it, or the first alone.

    """

    name: ClassVar[str]
    needs: ClassVar[tuple[Thing, ...]] = ("model",)
    leaves: ClassVar[tuple[Thing, ...]] = ()
    again: ClassVar[bool] = False
    shared: ClassVar[bool] = False

    def check(self, start: keras.Model) -> None:  # noqa: B027  (most have nothing to check)
        """Finds before any training, and before there is a folder, what would fail after hours.

        Raises:
            ToolkitError: the stage's settings do not fit the run's first model.

        """

    def check_length(self, bench: Workbench) -> None:  # noqa: B027
        """Finds before any training what the stage's length and the number of images make pointless.

        Raises:
            ConfigError: with so many images nothing would be learnt.

        """

    @abstractmethod
    def run(self, bench: Workbench) -> None:
        """Takes the latest model from the bench and leaves its own there, or goes on from its last checkpoint.

        A stage may be killed anywhere and is then run again; what it left counts once it has returned.
        """


def check_order(stages: Sequence[Stage], finished: Sequence[str], begun: str | None, where: str) -> None:
    """Raises TrainingError where the stages cannot go on from what a run folder holds.

    Args:
        stages: all that the settings name, in order.
        finished: names of those that are.
        begun: name of the one that the run stopped in; None: between two.
        where: the folder, for the message.

    """
    left = [stage.name for stage in stages if stage.name not in finished]
    if begun is not None and begun != next(iter(left), None):
        raise TrainingError(
            f"{where}: the run stopped in the middle of {begun!r}, but TRAIN.stages goes on with "
            f"{left[0] if left else 'nothing'!r}; put {begun!r} next, or give --fresh to start anew"
        )
    known = [stage.name for stage in stages if stage.name in finished]
    if not in_order([*finished, *left]) or known != [name for name in finished if name in known]:
        raise TrainingError(
            f"{where}: {', '.join(finished)} are done, and TRAIN.stages = {[stage.name for stage in stages]} asks for "
            "another order; restore it, give --fresh to start anew, or choose another MODEL.model_path"
        )
    there: set[Thing] = set()
    for stage in stages:
        if missing := set(stage.needs) - there:
            raise TrainingError(f"the stage {stage.name!r} needs {', '.join(sorted(missing))} of an earlier stage")
        there |= set(stage.leaves)
