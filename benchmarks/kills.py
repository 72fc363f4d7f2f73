"""Kills a short run at random moments, and starts it again: python benchmarks/kills.py --runs 20.

One run (all stages, built-in samples) is left alone. Each of the others is killed with SIGKILL at a random moment,
every second one while a file is being written, and the same command is given again until the run ends. Printed is
whether it ends with the same bits in every weight, optimiser state, trial of a search and logged loss. With --racing
the command is given twice at the same moment each time: one process works, the other must be refused.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from lib.files import read_json

# In the place of EResFD a detector whose step compiles in a second, so that kills hit training and not the compiler.
JOB = """
import sys
from lib.config import Config
import lib.data.sources
import lib.runs.job
import lib.runs.wiring
from tests.detectors import small_detector
config = Config()
config.MODEL.model_path, config.DATA.sample_path = sys.argv[1:3]
for override in sys.argv[3:]:
    config.override(override)
config.check()
lib.runs.wiring.chosen_model = lambda config: small_detector()
make = lib.data.sources.ensure_samples
lib.data.sources.ensure_samples = lambda path, seed: make(path, seed, 16, 6)
lib.runs.job.run(config)
"""
OVERRIDES = [
    "PRETRAIN.epoch=2",
    "SOFT_PRUNE.epoch=2",
    "FINETUNE.epoch=2",
    "PRUNE.epoch_prune=1",
    "PRUNE.rate=0.5",
    "PRUNE.repair_images=2",
    "TRAIN.batch_size=2",
    "TRAIN.checkpoint_every_step=3",
    "TRAIN.ema=0.9",
    "TRAIN.accumulate=2",
    "DATA.hin=96",
    "DATA.win=96",
    "SEARCH.groups={'all': ['conv*']}",
    "SEARCH.target=0.6",
    "SEARCH.tolerance=0.03",
    "SEARCH.n_init_points=2",
    "SEARCH.n_opt_iterations=1",
    "SEARCH.steps=1",
    "SEARCH.recalibration_batches=1",
]
REFUSED = b"another process works in it"


ORDERS = ("pretrain,search,shrink,repair,finetune", "pretrain,soft_prune,finetune,shrink")


class Job:
    """The job, in one process or in several that are started at the same moment, each in a session of its own."""

    def __init__(self, folder: Path, samples: Path, stages: str = ORDERS[0], processes: int = 1) -> None:
        command = [sys.executable, "-c", JOB, str(folder), str(samples), *OVERRIDES, f"TRAIN.stages={stages}"]
        self.folder = folder
        self._processes = [
            subprocess.Popen(  # noqa: S603
                command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            for _ in range(processes)
        ]

    def ended(self) -> bool:
        """Whether all processes have."""
        return all(process.poll() is not None for process in self._processes)

    def wait(self) -> None:
        """Waits for the end; RuntimeError unless one process finished the job and the others were refused."""
        said = [process.communicate()[1] for process in self._processes]
        codes = [process.returncode for process in self._processes]
        sound = all(code == 0 or (code == 1 and REFUSED in text) for code, text in zip(codes, said, strict=True))
        if not sound or 0 not in codes:
            raise RuntimeError(f"the job ended with {codes}: {said[-1][-2000:].decode(errors='replace')}")

    def kill(self) -> None:
        """SIGKILL to all of them."""
        for process in self._processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def written(folder: Path) -> int:
    """The time of the newest change in a run folder, in ns; 0 before it exists."""
    newest = 0
    for path in [folder, *folder.rglob("*")] if folder.exists() else []:
        with suppress(FileNotFoundError):  # renamed in between
            newest = max(newest, path.stat().st_mtime_ns)
    return newest


def kill(job: Job, delay_s: float, in_write: bool) -> str:
    """Kills the job `delay_s` after its first sign of life in the folder, or at the next write; returns what it hit."""
    folder = job.folder
    before = written(folder)
    while written(folder) == before and not job.ended():
        time.sleep(0.001)
    time.sleep(delay_s)
    while in_write and not list(folder.rglob(".*.part*")) and not job.ended():
        time.sleep(0.0002)
    if job.ended():
        return ""
    job.kill()
    left = [path.name for path in folder.rglob(".*.part*")]
    stages = len(read_json(folder / "state.json")["finished"]) if (folder / "state.json").is_file() else 0
    return f"after {delay_s:.1f} s, {stages} stages done, half written: {', '.join(left) or 'nothing'}"


def differences(one: Path, other: Path) -> list[str]:
    """What differs between two finished run folders; times of day do not count."""
    import keras
    import numpy as np

    import lib.models  # noqa: F401  (registers its layers)

    found = []
    files = sorted(str(path.relative_to(one)) for path in one.rglob("*.keras"))
    if files != sorted(str(path.relative_to(other)) for path in other.rglob("*.keras")):
        found.append("the files")
    for name in files:
        a, b = ([*m.variables, *(m.optimizer.variables if m.compiled else [])] for m in _load(keras, one, other, name))
        if not all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in zip(a, b, strict=True)):
            found.append(name)
    for name in ("state.json", "masks.json", "results.json"):
        left, right = (read_json(folder / name) for folder in (one, other))
        if name == "state.json":  # its hashes are of files that are compared by value above
            left, right = ({**state, "files": sorted(state["files"])} for state in (left, right))
        if left != right:
            found.append(name)
    if (one / "history.csv").read_bytes() != (other / "history.csv").read_bytes():
        found.append("history.csv")
    if _trials(one) != _trials(other):
        found.append("the trials")
    return found


def _trials(folder: Path) -> list[Any]:
    """What was tried in a search, in its order, and what came out."""
    trials = [read_json(file) for file in sorted(folder.glob("search/trial_*/trial.json"))]
    return [
        (trial["trial_id"], trial["hyperparameters"]["values"], trial["score"], trial["status"]) for trial in trials
    ]


def _load(keras: Any, one: Path, other: Path, name: str) -> list[Any]:
    return [keras.saving.load_model(folder / name) for folder in (one, other)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints one line a kill and the verdict; the exit status is 0 if both runs end alike."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="runs to kill")
    parser.add_argument("--kills", type=int, default=1, help="kills of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", default=ORDERS[0], help=f"TRAIN.stages ({ORDERS[0]})")
    parser.add_argument("--racing", action="store_true", help="start two processes each time")
    options = parser.parse_args(arguments)
    processes = 2 if options.racing else 1
    draw = random.Random(options.seed)  # noqa: S311
    with tempfile.TemporaryDirectory() as place:
        samples, whole = Path(place) / "samples", Path(place) / "whole"
        job = Job(whole, samples, options.stages)
        while not whole.exists() and not job.ended():
            time.sleep(0.001)
        began = time.monotonic()
        job.wait()
        length_s = time.monotonic() - began
        print(f"the run that is left alone trains for {length_s:.1f} s", flush=True)
        kills = same = 0
        for run in range(options.runs):
            killed = Path(place) / f"killed{run}"
            for number in range(options.kills):
                job = Job(killed, samples, options.stages, processes)
                hit = kill(job, draw.uniform(0, length_s), (run + number) % 2 == 1)
                kills += bool(hit)
                print(f"run {run}: {hit or 'it had ended'}", flush=True)
            Job(killed, samples, options.stages, processes).wait()
            found = differences(whole, killed)
            same += not found
            print(f"run {run}: {'bitwise equal' if not found else 'DIFFERENT: ' + ', '.join(found)}", flush=True)
        print(f"{kills} kills; {same} of {options.runs} runs end bitwise equal to the one that was left alone")
    return 0 if same == options.runs else 1


if __name__ == "__main__":
    sys.exit(main())
