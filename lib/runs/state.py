"""How far a run has come, as `state.json` holds it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from lib.errors import TrainingError
from lib.files import typed
from lib.runs.removal import Proof
from lib.training.position import Position

FORMAT = 2  # of the file
REMEDY = (
    "restore it, give --fresh to start anew (the earlier run is kept aside) or choose another MODEL.model_path; the "
    "models in optimized/ can be used by name"
)


@dataclass
class Row:
    """A model that a stage left, and what is known of it: a row of the closing table.

    Attributes:
        stage: its file's name in `optimized/`.
        zero_share, parameters, macs: see `lib.runs.results.costs_of`.
        ap: average precision; None: not measured.
        pb_bytes, latency_ms: size of its frozen graph, and of LiteRT's runs the shortest; None: not measured.
        protocol: how the figures that can be None were measured; "" where none is.

    """

    stage: str
    zero_share: float
    parameters: int
    macs: int
    ap: float | None = None
    pb_bytes: int | None = None
    latency_ms: float | None = None
    protocol: str = ""


@dataclass(frozen=True)
class Removal:
    """The row whose channels were taken out, and the proof that nothing else changed."""

    of: str
    proof: Proof


class _HistoryRow(TypedDict):
    """What every row of the history has."""

    epoch: int
    stage: str


@dataclass
class RunState:
    """What is done.

    Attributes:
        finished: names of the stages that are, as TRAIN.stages has them, in their order.
        rows: the models that they left, in their order.
        position: where the stage stands that was begun after them; None at its start.
        history: a row an epoch, as in `history.csv`.
        rates: file in the folder with the rates that were searched for; "": there was no search.
        removal: what taking out the channels came to; None: they were not.
        files: hashes of the files that the state refers to, by their paths in the folder; see `RunFolder.save_state`.
        repair: what the repair behind it came to, for `results.json`; None: there was none.

    """

    finished: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    position: Position | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    rates: str = ""
    removal: Removal | None = None
    repair: dict[str, Any] | None = None
    files: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """A plain dict for JSON; `from_dict` is its inverse."""
        return {
            "format": FORMAT,
            "finished": self.finished,
            "rows": [asdict(row) for row in self.rows],
            "position": self.position and self.position.to_dict(),
            "history": self.history,
            "rates": self.rates,
            "removal": self.removal and asdict(self.removal),
            "repair": self.repair,
            "files": self.files,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], where: str | Path = "state.json") -> "RunState":
        """The state that `to_dict` gave.

        Raises:
            TrainingError: the file `where` it comes from was written by another version, or holds something else.

        """
        if content.get("format") != FORMAT:
            raise TrainingError(
                f"{where}: written by another version (format {content.get('format', 1)}; this one reads {FORMAT}). "
                "Its models can be used by name, optimized/STAGE.keras, but the run cannot go on: give --fresh to "
                "start anew (the earlier run is kept aside) or choose another MODEL.model_path"
            )
        known = [item.name for item in fields(cls)]
        later = ("repair", "files")  # than the format
        try:
            state: RunState = typed(
                cls, {name: content[name] for name in known if name in content or name not in later}
            )
            typed(list[_HistoryRow], state.history)
            if state.finished and not state.rows:
                raise ValueError(f"rows: none, though {', '.join(state.finished)} is done")
        except (ValueError, KeyError) as error:
            raise TrainingError(f"{where}: not as it was written ({error}); {REMEDY}") from error
        return state
