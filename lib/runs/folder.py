"""A run folder: settings, state, checkpoints and results of one run, so that it can be killed and go on."""

import difflib
import logging
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lib.config import Config
from lib.errors import ModelError, TrainingError
from lib.files import read_json, write_json

logger = logging.getLogger(__name__)

_PACKAGES = ("keras", "tensorflow", "jax", "torch", "numpy", "opencv-python-headless")
# Settings that may change between two runs in one folder: how fast a run goes, where it lies, and which stages to run
# (finished ones are not run again, so a later call can add to them).
_IMMATERIAL = (
    "TRAIN.process_num",
    "TRAIN.prefetch_size",
    "TRAIN.checkpoint_every_step",
    "TRAIN.keep_checkpoints",
    "TRAIN.log_interval",
    "TRAIN.ap_every_epoch",
    "TRAIN.ap_images",
    "TRAIN.stages",
    "MODEL.model_path",
)


class RunFolder:
    """One run's folder.

    Files: `config.json` (settings, versions, commit), `state.json` (finished stages, progress), `epoch_N.keras`
    (checkpoints with optimiser; `epoch_N_batch_M.keras` in the middle of an epoch), `optimized/STAGE.keras` (each
    stage's outcome), `masks.json`, `history.csv`, `tensorboard/`, `results.json`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.state: dict[str, Any] = {"stages": [], "progress": None, "history": []}

    def open(self, config: Config, fresh: bool = False) -> None:
        """Starts the run, or goes on with the one that is there.

        Args:
            fresh: an earlier run in the folder is moved aside, to `NAME.1`, `NAME.2`, ...

        Raises:
            TrainingError: the folder holds a run with other settings (the differences are shown), or something else.

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
                self.state = read_json(self.path / "state.json")
            self._remove_leftovers()
            return
        self._remove_leftovers()
        if self.path.exists() and any(self.path.iterdir()):
            raise TrainingError(f"{self.path}: not empty and no run of this program; choose another MODEL.model_path")
        write_json(settings, {"config": config.model_dump(mode="json"), **_environment()})

    def save_state(self) -> None:
        write_json(self.path / "state.json", self.state)

    def checkpoint(self, epoch: int, batch: int = 0) -> Path:
        """The checkpoint after `epoch` epochs, all stages counted, and `batch` batches more."""
        return self.path / (f"epoch_{epoch}_batch_{batch}.keras" if batch else f"epoch_{epoch}.keras")

    def last_checkpoint(self) -> Path | None:
        """The checkpoint that the present stage would go on from; None where it has none yet."""
        progress = self.state["progress"]
        return self.checkpoint(progress["epoch"], progress.get("batch", 0)) if progress else None

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

    def outcome(self, stage: str) -> Path:
        """The model that a stage ended with."""
        return self.path / "optimized" / f"{stage}.keras"

    def _require_same(self, before: dict[str, Any], config: Config) -> None:
        # A run made before a setting existed ran as its default says.
        defaults = type(config)().model_dump(mode="json")
        complete = {section: {**values, **before.get(section, {})} for section, values in defaults.items()}
        old, new = _lines(complete), _lines(config.model_dump(mode="json"))
        if old != new:
            changes = [line for line in difflib.ndiff(old, new) if line[0] in "-+"]
            raise TrainingError(
                f"{self.path} holds a run with other settings (- then, + now):\n  " + "\n  ".join(changes) + "\n"
                "Give --fresh to start anew (the earlier run is kept aside), choose another MODEL.model_path, "
                "or restore the settings to go on."
            )


def model_file(path: str | Path) -> Path:
    """The model that a path means: a file itself; of a run folder the shrunk model, else the last stage's outcome.

    Raises:
        ModelError: there is nothing, or the folder holds no finished stage.

    """
    given = Path(path)
    if given.is_file():
        return given
    if not given.is_dir():
        raise ModelError(f"{given}: no such file or folder; expected a .keras model or a run folder")
    if not (given / "state.json").is_file():
        raise ModelError(f"{given}: no run folder of pruned_train.py (no state.json); name a .keras file instead")
    folder = RunFolder(given)
    finished = [row["stage"] for row in read_json(given / "state.json")["stages"]]
    for stage in ["shrunk", "finetune", *reversed(finished)]:
        if folder.outcome(stage).is_file():
            return folder.outcome(stage)
    raise ModelError(f"{given}: no stage of this run is finished; name one of its epoch_N.keras files instead")


def _lines(config: dict[str, Any]) -> list[str]:
    flat = {f"{section}.{key}": value for section, values in config.items() for key, value in values.items()}
    return [f"{name} = {value!r}" for name, value in sorted(flat.items()) if name not in _IMMATERIAL]


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
    root = Path(__file__).parent.parent
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
