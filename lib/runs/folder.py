"""A run folder: settings, state, checkpoints and results of one run, so that it can be killed and go on."""

import difflib
import hashlib
import io
import logging
import os
import platform
import re
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

from lib.config import Config, stage_names
from lib.errors import ConfigError, ModelError, TrainingError
from lib.files import is_left_half_written, read_json, read_own, sha256, strangers, write_json
from lib.models.zoo import located
from lib.runs.lock import FolderLock
from lib.runs.state import REMEDY, RunState
from lib.training.position import Position

logger = logging.getLogger(__name__)

_SETTINGS = r"config\.json|\.lock"
# Everything that a run writes into its folder, and what tools/auto_freeze.py and benchmarks put beside it.
_OURS = (
    r"(config|state|masks|results|latency|rates_[\d.e-]+)\.json|(history|search)\.csv|(samples|search_\w+)\.png"
    r"|report\.html|faces\.jpg"
    r"|epoch_\d+(_batch_\d+)?\.keras|whole\.keras|optimized/\w+\.(keras|pb)|tensorboard/events\.out\.tfevents\.\d+"
    r"|\.lock|search/(oracle|tuner\w+|trial_\w+/trial)\.json|detector\.\w+"
)
_PACKAGES = ("keras", "tensorflow", "jax", "torch", "numpy", "opencv-python-headless")
_WAYS_OUT = (
    "Give --fresh to start anew (the earlier run is kept aside), choose another MODEL.model_path, or restore what was "
    "there to go on."
)


class RunFolder:
    """One run's folder.

    Files: `config.json` (settings, versions, commit), `state.json` (`RunState`), `epoch_N.keras` (checkpoints with
    optimiser; `epoch_N_batch_M.keras` in the middle of an epoch), `optimized/STAGE.keras` (each stage's outcome; also
    `.pb` where its size was measured), `whole.keras` (before the last soft pruning), `masks.json`, `rates_*.json`,
    `history.csv`, `tensorboard/`, `results.json`, `report.html` and one of its pictures, `faces.jpg`.

    Attributes:
        path: the folder.
        state: how far the run has come.
        writes: whether this process does; of several that train together one alone, and the others `follow` it.

    """

    def __init__(self, path: str | Path, writes: bool = True) -> None:
        self.path, self.writes = Path(path), writes
        self.state = RunState()
        self._lock: FolderLock | None = None
        self._hashed: dict[tuple[str, int, int], str] = {}

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

    def open(self, config: Config, fresh: bool = False, digest: str = "") -> None:
        """Starts the run, or goes on with the one that is there.

        Args:
            fresh: an earlier run in the folder is moved aside, to `NAME.1`, `NAME.2`, ...
            digest: of the data (`FaceData.digest`); "": not known.

        Raises:
            TrainingError: the folder holds a run with other settings (the differences are shown) or other data, one of
                another version, one whose files are not those that it wrote, or something else; another process works
                in it; or it cannot be written.

        """
        settings, before = self.path / "config.json", dict[str, Any]()
        if settings.is_file():
            _settings_in(self.path)
        elif self.path.exists() and not self._died_at_once():
            raise TrainingError(f"{self.path}: not empty and no run of this program; choose another MODEL.model_path")
        with self.writing():
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock.take(self.path)
            if fresh and settings.is_file():
                self._move_aside()
                self.path.mkdir()
                self._lock = FolderLock.take(self.path)
            if settings.is_file():
                if (self.path / "state.json").is_file():
                    self.state = _read_state(self.path)
                before = _settings_in(self.path)
                self._require_same(before["config"], config)
                if digest and (before.get("data") or digest) != digest:
                    raise TrainingError(
                        f"{self.path} holds a run with other data: images or boxes under DATA have changed. {_WAYS_OUT}"
                    )
                self._require_own_files()
            self._remove_leftovers()
            before = before or {"data": digest, **_environment()}
            write_json(settings, {**before, "config": config.model_dump(mode="json")})

    def follow(self) -> None:
        """Takes over how far the run has come from what the process that writes has written."""
        if not self.writes and (self.path / "state.json").is_file():
            self.state = _read_state(self.path)

    def release(self) -> None:
        """Lets other processes work in the folder."""
        self._lock = None

    def _died_at_once(self) -> bool:
        """Whether nothing is there but what a run leaves that is killed before its settings are whole."""
        return self.path.is_dir() and not strangers(self.path, _SETTINGS)

    def _move_aside(self) -> None:
        """Renames the folder to `NAME.1`, `NAME.2`, ..., if the whole of it is a run."""
        path = self.path.resolve()
        if Path.cwd().is_relative_to(path):
            raise TrainingError(f"{self.path}: --fresh cannot move the folder that it is called in; call it elsewhere")
        if foreign := strangers(path, _OURS):
            raise TrainingError(
                f"{self.path}: holds {foreign[0].relative_to(path)}, which no run writes"
                f"{f', and {len(foreign) - 1} more' if len(foreign) > 1 else ''}; --fresh moves nothing but runs: "
                "take it out, or choose another MODEL.model_path"
            )
        number = 1
        while os.path.lexists(aside := path.with_name(f"{path.name}.{number}")):
            number += 1
        path.rename(aside)
        logger.info("the earlier run is now in %s", aside)

    def save_state(self) -> None:
        """Writes `state.json`, with the hashes of all files that it refers to."""
        if not self.writes:
            return
        self.state.files = {
            file.relative_to(self.path).as_posix(): self._hash(file) for file in self._referred() if file.is_file()
        }
        write_json(self.path / "state.json", self.state.to_dict())

    def _referred(self) -> list[Path]:
        """The files that the run goes on from."""
        checkpoint, position = self.last_checkpoint(), self.position
        best = self.checkpoint(position.best.epoch) if position and position.best else None
        latest = self.latest()
        rates = self.path / self.state.rates if self.state.rates else None
        # Soft pruning writes them at its end, and may be killed and done again.
        masks = None if position and position.stage == "soft_prune" else self.path / "masks.json"
        return list(dict.fromkeys(file for file in (checkpoint, best, latest, rates, masks) if file))

    def _hash(self, file: Path) -> str:
        """Of a model, its weights' hash: the same for two runs that do the same; of other files, that of all bytes."""
        status = file.stat()
        key = (str(file), status.st_mtime_ns, status.st_size)
        if key not in self._hashed:
            self._hashed[key] = _weights_hash(file) if file.suffix == ".keras" else sha256(file)
        return self._hashed[key]

    def _require_own_files(self) -> None:
        """Raises TrainingError where a file that the state refers to is another, or a newer state is gone."""
        for name, expected in self.state.files.items():
            file = self.path / name
            if not file.is_file():
                raise TrainingError(f"{file}: missing, and the run goes on from it. {_WAYS_OUT}")
            if self._hash(file) != expected:
                raise TrainingError(f"{file}: not the file that the run wrote. {_WAYS_OUT}")
        done = max([row["epoch"] for row in self.state.history], default=0)
        newer = [epoch for file in self.path.glob("epoch_*.keras") if (epoch := _epoch_of(file)) > done + 1]
        begun = (self.path / "state.json").is_file()
        results = [self.path / name for name in ("history.csv", "masks.json", "results.json")]
        if newer or (not begun and any(file.is_file() for file in results)):
            found = f"epoch_{max(newer)}.keras" if newer else "its results"
            raise TrainingError(
                f"{self.path / 'state.json'}: {'of an older epoch than' if begun else 'missing beside'} {found}. "
                f"{_WAYS_OUT}"
            )

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
        for file in [*self.path.glob(".*.part*"), *self.path.glob("optimized/.*.part*")]:
            if is_left_half_written(file.relative_to(self.path).as_posix(), _OURS):
                file.unlink(missing_ok=True)
        # Checkpoints in the middle of an epoch are removed once a state refers to the next; a kill may fall between.
        for file in self.path.glob("epoch_*_batch_*.keras"):
            if file != self.last_checkpoint() and re.fullmatch(_OURS, file.name):
                file.unlink(missing_ok=True)

    def outcome(self, stage: str, suffix: str = ".keras") -> Path:
        """The model that a stage left, by the name in its row; ".pb": its frozen graph."""
        return self.path / "optimized" / f"{stage}{suffix}"

    @property
    def before_masks(self) -> Path:
        """The model as it was before soft pruning set channels to zero for good."""
        return self.path / "whole.keras"

    def whole_model(self) -> Path:
        """The model with what the channels that were taken out still were."""
        assert self.state.removal is not None, "channels were taken out"
        of = self.state.removal.of
        soft = of == "soft_prune" and self.before_masks.is_file()
        return self.before_masks if soft else self.outcome(of)

    def latest(self) -> Path | None:
        """The model that the last finished stage left; None before the first."""
        return self.outcome(self.state.rows[-1].stage) if self.state.rows else None

    def _require_same(self, before: dict[str, Any], config: Config) -> None:
        then = type(config)()  # a run made before a setting existed ran as its default says
        try:
            then.assign(before)
        except ConfigError as error:
            raise TrainingError(f"{self.path}: written by another version ({error}). {_WAYS_OUT}") from error
        begun = [*self.state.finished, *([self.position.stage] if self.position else [])]
        # The next stage counts as begun: one without epochs, such as a search, does not say so.
        begun += [name for name in stage_names(then) if name not in self.state.finished][:1]
        free = then.immaterial(begun) & config.immaterial(begun)
        old, new = _lines(then, free), _lines(config, free)
        if old != new:
            changes = [line for line in difflib.ndiff(old, new) if line[0] in "-+"]
            raise TrainingError(
                f"{self.path} holds a run with other settings (- then, + now):\n  " + "\n  ".join(changes) + "\n"
                f"{_WAYS_OUT}"
            )


def model_file(path: str | Path) -> Path:
    """The model that a path means: a file or SavedModel itself; of a run folder what its last finished stage left.

    The name of published weights means these (`lib.models.zoo`).

    Raises:
        ModelError: there is nothing, or the folder holds no finished stage; published weights cannot be had.
        TrainingError: the folder was written by another version.

    """
    given = located(path)
    if given.is_file() or (given / "saved_model.pb").is_file():
        return given
    if not given.is_dir():
        raise ModelError(f"{given}: no such file or folder; expected a .keras model or a run folder")
    if (given / "saved_model.pb").is_file():
        raise ModelError(f"{given}: a SavedModel of TensorFlow; expected a .keras model: model.save('NAME.keras')")
    if not (given / "state.json").is_file():
        raise ModelError(f"{given}: no run folder of pruned_train.py (no state.json); name a .keras file instead")
    folder = RunFolder(given)
    folder.state = _read_state(given)
    if latest := folder.latest():
        return latest
    raise ModelError(f"{given}: no stage of this run is finished; name one of its epoch_N.keras files instead")


def _settings_in(path: Path) -> dict[str, Any]:
    """What a run wrote into its config.json: its settings by section as `config`, and where they came from.

    Raises:
        TrainingError: there is no run in it.

    """
    file = path / "config.json"
    try:
        content = read_json(file)
        settings = content["config"]
        ours = settings.keys() <= Config.model_fields.keys() and all(settings[name].keys() for name in settings)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        ours = False
    if not ours or not settings:
        raise TrainingError(
            f"{path}: not empty and no run of this program: {file.name} does not hold a run's settings; "
            "choose another MODEL.model_path"
        )
    return dict(content)


def _read_state(path: Path) -> RunState:
    file = path / "state.json"
    return RunState.from_dict(read_own(file, dict[str, Any], TrainingError, REMEDY), file)


def _epoch_of(checkpoint: Path) -> int:
    """The epochs done in a checkpoint, by its name; 0 for other names."""
    found = re.fullmatch(r"epoch_(\d+)(_batch_\d+)?\.keras", checkpoint.name)
    return int(found[1]) if found else 0


def _weights_hash(file: Path) -> str:
    try:
        with zipfile.ZipFile(file) as archive, archive.open("model.weights.h5") as weights:
            return hashlib.file_digest(cast(io.BufferedReader, weights), "sha256").hexdigest()
    except (OSError, KeyError, zipfile.BadZipFile, EOFError, zlib.error):
        return sha256(file)  # whatever it is, not what a run wrote


def _lines(config: Config, left_out: Collection[str]) -> list[str]:
    sections = config.model_dump(mode="json")
    flat = {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}
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
