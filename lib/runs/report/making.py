"""From a run's folder to its page."""

from collections.abc import Sequence
from pathlib import Path

from typing_extensions import TypedDict

from lib.config import Config
from lib.data.annotations import Record
from lib.data.sources import load_data
from lib.detection.formats.pb import DetectionSettings
from lib.errors import ToolkitError, TrainingError
from lib.files import read_json, read_own, replacing
from lib.limits import allowing
from lib.runs import wiring
from lib.runs.report.findings import Findings, look
from lib.runs.report.page import NAME, READ_ERRORS, write_page
from lib.runs.state import REMEDY

_DAMAGED = (ToolkitError, *READ_ERRORS)


class _Row(TypedDict):
    stage: str


class _Begun(TypedDict):
    """What is needed of a run's `state.json`, of whichever version."""

    rows: list[_Row]


def report_run(
    folder: Path, records: Sequence[Record] | None, detection: DetectionSettings, size_px: tuple[int, int]
) -> Path:
    """Writes `report.html` into a run's folder, and one of its pictures as `faces.jpg`.

    Args:
        records: validation images; None: nothing is detected, and the page says so.
        detection, size_px: see `look`.

    """
    if records is None:
        findings: Findings | str = f"the run did not measure; python tools/report.py {folder} adds them"
    else:
        findings = _looked(folder, records, detection, size_px)
    if isinstance(findings, Findings) and findings.pictures:
        with replacing(folder / "faces.jpg") as temporary:
            temporary.write_bytes(findings.pictures[0][1])
    return write_page(folder / NAME, [(folder, findings)])


def report_folders(folders: Sequence[Path], output: Path | None = None) -> Path:
    """Writes the page of runs that lie in folders, finished or not.

    Args:
        output: the file; None: `report.html` in the first folder.

    Raises:
        TrainingError: a folder is no run's.

    """
    for folder in folders:
        if not (folder / "config.json").is_file() and not (folder / "state.json").is_file():
            raise TrainingError(f"{folder}: no run folder of pruned_train.py (no config.json); name one")
    return write_page(output or folders[0] / NAME, [(folder, _found(folder)) for folder in folders])


def first_and_last(folder: Path) -> tuple[Path, Path] | None:
    """The models that a run's first and latest finished stages left; None before the first.

    Raises:
        TrainingError: `state.json` is damaged.

    """
    state = read_own(folder / "state.json", _Begun, TrainingError, REMEDY)
    stages = [row["stage"] for row in state["rows"]]
    files = [folder / "optimized" / f"{stage}.keras" for stage in stages]
    return (files[0], files[-1]) if files else None


def _found(folder: Path) -> Findings | str:
    """What a folder's models come to, with the settings and on the images of its own config.json."""
    try:
        config = Config()
        config.assign(read_json(folder / "config.json")["config"])
        with allowing(**dict(config.LIMITS)):
            records = load_data(wiring.data_settings(config)).val
            return _looked(folder, records, wiring.detection_settings(config), (config.COST.hin, config.COST.win))
    except _DAMAGED as error:
        return f"its settings or images cannot be had ({error})"


def _looked(
    folder: Path, records: Sequence[Record], detection: DetectionSettings, size_px: tuple[int, int]
) -> Findings | str:
    try:
        both = first_and_last(folder)
        if both is None:
            return "no stage is finished"
        return look(*both, records, detection, size_px)
    except _DAMAGED as error:
        return f"its models cannot be compared ({error})"
