"""A run folder: settings, state, checkpoints and results of one run, so that it can be killed and go on."""

import difflib
import logging
import platform
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lib.config import Config
from lib.errors import ModelError, TrainingError
from lib.files import read_json, write_json
from lib.runs.state import RunState
from lib.training.position import Position

logger = logging.getLogger(__name__)

_PACKAGES = ("keras", "tensorflow", "jax", "torch", "numpy", "opencv-python-headless")


class RunFolder:
    """One run's folder.

    Files: `config.json` (settings, versions, commit), `state.json` (`RunState`), `epoch_N.keras` (checkpoints with
    optimiser; `epoch_N_batch_M.keras` in the middle of an epoch), `optimized/STAGE.keras` (each stage's outcome; also
    `.pb` where its size was measured), `masks.json`, `rates_*.json`, `history.csv`, `tensorboard/`, `results.json`.

    Attributes:
        path: the folder.
        state: how far the run has come.

    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.state = RunState()

    @property
    def position(self) -> Position | None:
        """Where the present stage stands."""
        return self.state.position

    @position.setter
    def position(self, position: Position | None) -> None:
        self.state.position = position

    @property
    def history(self) -> list[dict[str, Any]]:
        """A row an epoch."""
        return self.state.history

    @history.setter
    def history(self, rows: list[dict[str, Any]]) -> None:
        self.state.history = rows

    def open(self, config: Config, fresh: bool = False) -> None:
        """Starts the run, or goes on with the one that is there.

        Args:
            fresh: an earlier run in the folder is moved aside, to `NAME.1`, `NAME.2`, ...

        Raises:
            TrainingError: the folder holds a run with other settings (the differences are shown), one of another
                version, or something else.

        """
        if fresh and self.path.exists():
            number = 1
            while (aside := self.path.with_name(f"{self.path.name}.{number}")).exists():
                number += 1
            self.path.rename(aside)
            logger.info("the earlier run is now in %s", aside)
        settings = self.path / "config.json"
        if settings.is_file():
            self._require_same(read_json(settings)["config"], config)
            if (self.path / "state.json").is_file():
                self.state = _read_state(self.path)
            self._remove_leftovers()
            return
        self._remove_leftovers()
        if self.path.exists() and any(self.path.iterdir()):
            raise TrainingError(f"{self.path}: not empty and no run of this program; choose another MODEL.model_path")
        write_json(settings, {"config": config.model_dump(mode="json"), **_environment()})

    def save_state(self) -> None:
        write_json(self.path / "state.json", self.state.to_dict())

    def checkpoint(self, epoch: int, batch: int = 0) -> Path:
        """The checkpoint after `epoch` epochs, all stages counted, and `batch` batches more."""
        return self.path / (f"epoch_{epoch}_batch_{batch}.keras" if batch else f"epoch_{epoch}.keras")

    def last_checkpoint(self) -> Path | None:
        """The checkpoint that the present stage would go on from; None where it has none yet."""
        return self.checkpoint(self.position.epoch, self.position.batch) if self.position else None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turns a failure to write into a message that says what is still there.

        Raises:
            TrainingError: the disk is full, or the folder cannot be written for another reason.

        """
        before = self.last_checkpoint()
        try:
            yield
        except OSError as error:
            raise TrainingError(
                f"{self.path}: cannot be written ({error}); the last whole checkpoint is "
                f"{before or 'none of this stage'}. Make room, and the same command goes on from there"
            ) from error

    def _remove_leftovers(self) -> None:
        """Removes what a killed run left half written: nothing ever refers to it."""
        for file in [*self.path.glob(".*.part.*"), *self.path.glob("optimized/.*.part.*")]:
            file.unlink(missing_ok=True)

    def outcome(self, stage: str, suffix: str = ".keras") -> Path:
        """The model that a stage left, by the name in its row; ".pb": its frozen graph."""
        return self.path / "optimized" / f"{stage}{suffix}"

    def latest(self) -> Path | None:
        """The model that the last finished stage left; None before the first."""
        return self.outcome(self.state.rows[-1].stage) if self.state.rows else None

    def _require_same(self, before: dict[str, Any], config: Config) -> None:
        # A run made before a setting existed ran as its default says.
        defaults = type(config)().model_dump(mode="json")
        complete = {section: {**values, **before.get(section, {})} for section, values in defaults.items()}
        free = may_change(config)
        old, new = _lines(complete, free), _lines(config.model_dump(mode="json"), free)
        if old != new:
            changes = [line for line in difflib.ndiff(old, new) if line[0] in "-+"]
            raise TrainingError(
                f"{self.path} holds a run with other settings (- then, + now):\n  " + "\n  ".join(changes) + "\n"
                "Give --fresh to start anew (the earlier run is kept aside), choose another MODEL.model_path, "
                "or restore the settings to go on."
            )


def model_file(path: str | Path) -> Path:
    """The model that a path means: a file or SavedModel itself; of a run folder what its last finished stage left.

    Raises:
        ModelError: there is nothing, or the folder holds no finished stage.
        TrainingError: the folder was written by another version.

    """
    given = Path(path)
    if given.is_file() or (given / "saved_model.pb").is_file():
        return given
    if not given.is_dir():
        raise ModelError(f"{given}: no such file or folder; expected a .keras model or a run folder")
    if not (given / "state.json").is_file():
        raise ModelError(f"{given}: no run folder of pruned_train.py (no state.json); name a .keras file instead")
    folder = RunFolder(given)
    folder.state = _read_state(given)
    if latest := folder.latest():
        return latest
    raise ModelError(f"{given}: no stage of this run is finished; name one of its epoch_N.keras files instead")


def may_change(config: Config) -> set[str]:
    """The settings that may change between two calls for one folder: they change no weight and no recorded figure.

    They say how fast a run goes, where it and its data lie, what is shown, and which stages to run (finished ones are
    not run again, so a later call can add to them). AP and milliseconds of other TEST settings are measured anew; only
    a search by AP depends on them for its rates.
    """
    free = {
        "TRAIN.process_num",
        "TRAIN.prefetch_size",
        "TRAIN.checkpoint_every_step",
        "TRAIN.keep_checkpoints",
        "TRAIN.log_interval",
        "TRAIN.ap_every_epoch",
        "TRAIN.ap_images",
        "TRAIN.stages",
        "TRAIN.vis",
        "MODEL.model_path",
        "DATA.root_path",
        "DATA.sample_path",
        "TEST.latency_rounds",
    }
    if config.SEARCH.objective != "ap":
        free |= {"TEST.score_thres", "TEST.iou_thres", "TEST.max_detect"}
    return free


def _read_state(path: Path) -> RunState:
    file = path / "state.json"
    return RunState.from_dict(read_json(file), file)


def _lines(config: dict[str, Any], left_out: Collection[str]) -> list[str]:
    flat = {f"{section}.{key}": value for section, values in config.items() for key, value in values.items()}
    return [f"{name} = {value!r}" for name, value in sorted(flat.items()) if name not in left_out]


def _environment() -> dict[str, Any]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {"command": sys.argv, "versions": versions, "commit": _commit()}


def _commit() -> str | None:
    """The project's commit, with "+changes" if the tree differs from it; None outside a repository."""
    root = Path(__file__).parent.parent.parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*"],  # noqa: S607
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()
