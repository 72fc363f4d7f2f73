"""Where a stage of training stands: what a checkpoint belongs to, and what a restart needs beside it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lib.pruning import Masks


@dataclass(frozen=True)
class Best:
    """The stage's epoch of the lowest validation loss so far; epochs are counted from 1 over all stages."""

    epoch: int
    val_loss: float


@dataclass(frozen=True)
class Position:
    """How far a stage has come.

    Attributes:
        stage: its name.
        epoch: epochs done, all stages counted.
        batch: batches done of the next epoch; 0: none.
        best: its best epoch; None before the first has ended.
        masks: of soft pruning: the latest.
        metrics: in the middle of an epoch: the state of its means, see `lib.training.trainer.Trainer`.

    """

    stage: str
    epoch: int
    batch: int = 0
    best: Best | None = None
    masks: Masks | None = None
    metrics: list[list[float]] | None = None

    def to_dict(self) -> dict[str, Any]:
        """A plain dict for JSON; `from_dict` is its inverse."""
        masks = self.masks and self.masks.to_dict()
        return {
            "stage": self.stage,
            "epoch": self.epoch,
            "batch": self.batch,
            "best": self.best and asdict(self.best),
            "masks": masks,
            "metrics": self.metrics,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Position":
        best, masks = content["best"], content["masks"]
        return cls(
            content["stage"],
            content["epoch"],
            content["batch"],
            Best(**best) if best else None,
            Masks.from_dict(masks) if masks else None,
            content["metrics"],
        )
