"""What a search leaves behind: a row a finished trial, the best so far, and the rates that were found."""

import csv
import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from lib.errors import TrainingError
from lib.files import read_own, write_json, write_text
from lib.search.oracle import Finished
from lib.search.space import Kept, Space

logger = logging.getLogger(__name__)

FIRST_COLUMNS = ("trial",)
LAST_COLUMNS = ("parameters", "macs", "ms", "budget_ratio", "val_loss", "objective", "seconds")


@dataclass(frozen=True)
class Figures:
    """What a plan costs: trainable parameters, multiply-accumulates, predicted milliseconds (None: not measured)."""

    parameters: int
    macs: int
    ms: float | None = None


class TrialTable:
    """Keeps `search.csv` in step with the finished trials, and says which is the best.

    Args:
        file: the table; rewritten whole after every trial, so that it is never cut off.
        space: of the search.
        figures: what a plan costs.

    """

    def __init__(self, file: str | Path, space: Space, figures: Callable[[Kept], Figures]) -> None:
        self.file, self.space, self.figures = Path(file), space, figures
        self._rows: dict[int, dict[str, Any]] = {}

    def update(self, finished: Sequence[Finished]) -> None:
        """Writes a row for each of the trials, by number."""
        for item in finished:
            if item.proposal.number not in self._rows:
                self._rows[item.proposal.number] = self._row(item)
        rows = [self._rows[item.proposal.number] for item in finished]
        text = io.StringIO()
        writer = csv.DictWriter(text, [*FIRST_COLUMNS, *self.space.names, *LAST_COLUMNS], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.file, text.getvalue())

    def announce(self, latest: Finished, best: Finished, of: int) -> None:
        """One line on the console."""
        row = self._row(latest)
        logger.info(
            "trial %d of %d (%s): %.1f %% left, val_loss %.4f, objective %.4f; best: trial %d, objective %.4f",
            latest.proposal.number + 1,
            of,
            latest.proposal.phase,
            100 * row["budget_ratio"],
            latest.val_loss,
            latest.objective,
            best.proposal.number + 1,
            best.objective,
        )

    def _row(self, item: Finished) -> dict[str, Any]:
        kept = item.proposal.kept
        figures = self.figures(kept)
        rates = zip(self.space.names, self.space.rates(kept).tolist(), strict=True)
        return {
            "trial": item.proposal.number,
            **{name: round(rate, 4) for name, rate in rates},
            "parameters": figures.parameters,
            "macs": figures.macs,
            "ms": "" if figures.ms is None else round(figures.ms, 3),
            "budget_ratio": round(self.space.share(kept), 5),
            "val_loss": item.val_loss,
            "objective": item.objective,
            "seconds": round(item.seconds, 3),
        }


def best_of(finished: Sequence[Finished], target: float | None = None) -> Finished | None:
    """The trial of the highest objective at a target; where plans were trained longer at the end, among those."""
    own = [item for item in finished if target is None or item.proposal.target == target]
    longer = [item for item in own if item.proposal.phase == "long"]
    return max(longer or own, key=lambda item: item.objective, default=None)


def rates_of(space: Space, kept: Kept) -> dict[str, float]:
    """A plan as `PRUNE.rate` takes it: set name -> rate, of which floor(rate * channels) go; 1 empties a set."""
    return {
        name: (size - count) / size
        for name, size, count in zip(space.set_names, space.sizes.tolist(), kept, strict=True)
        if count < size
    }


def write_rates(file: str | Path, space: Space, best: Finished, measured_ratio: float | None = None) -> None:
    """Writes the found plan as JSON; its "rate" can be pasted into the config as `config.PRUNE.rate`.

    Args:
        measured_ratio: what is left of the milliseconds by measurement, where they are the budget.

    """
    kept = best.proposal.kept
    write_json(
        file,
        {
            "rate": rates_of(space, kept),
            "groups": dict(zip(space.names, space.rates(kept).tolist(), strict=True)),
            "target": best.proposal.target,
            "budget_ratio": space.share(kept),
            "measured_ratio": measured_ratio,
            "trial": best.proposal.number,
            "val_loss": best.val_loss,
            "objective": best.objective,
        },
    )


def read_rates(file: str | Path) -> dict[str, float]:
    """The rates of a file that `write_rates` wrote; TrainingError where it holds something else."""
    remedy = "restore it, or start the search anew"
    return dict(read_own(file, _Found, TrainingError, remedy)["rate"])


class _Found(TypedDict):
    rate: dict[str, float]


def read_table(file: str | Path) -> tuple[list[str], list[dict[str, float]]]:
    """The group names and the rows of a `search.csv`; milliseconds that were not measured are NaN."""
    with Path(file).open(newline="", encoding="utf-8") as source:
        reader = csv.DictReader(source)
        names = list(reader.fieldnames or [])
        rows = [{name: float(value or "nan") for name, value in row.items()} for row in reader]
    return names[len(FIRST_COLUMNS) : -len(LAST_COLUMNS)], rows
