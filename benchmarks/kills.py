"""Kills a short run at random moments, and starts it again: python benchmarks/kills.py --runs 20.

One run (all stages, built-in samples) is left alone. Each of the others is killed with SIGKILL at a random moment,
every second one while a file is being written, and the same command is given again until the run ends. Printed is
whether it ends with the same bits in every weight, optimiser state and logged loss.
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
    "TRAIN.batch_size=2",
    "TRAIN.checkpoint_every_step=3",
    "TRAIN.ema=0.9",
    "TRAIN.accumulate=2",
    "DATA.hin=96",
    "DATA.win=96",
]


ORDERS = ("pretrain,soft_prune,shrink,finetune", "pretrain,soft_prune,finetune,shrink")


def start(folder: Path, samples: Path, stages: str = ORDERS[0]) -> "subprocess.Popen[bytes]":
    """Starts the job in a session of its own."""
    command = [sys.executable, "-c", JOB, str(folder), str(samples), *OVERRIDES, f"TRAIN.stages={stages}"]
    return subprocess.Popen(  # noqa: S603
        command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def finished(process: "subprocess.Popen[bytes]") -> None:
    """Waits for the end of a job that is not killed."""
    if process.wait() != 0:
        raise RuntimeError(f"the job ended with {process.returncode}")


def written(folder: Path) -> int:
    """The time of the newest change in a run folder, in ns; 0 before it exists."""
    newest = 0
    for path in [folder, *folder.rglob("*")] if folder.exists() else []:
        with suppress(FileNotFoundError):  # renamed in between
            newest = max(newest, path.stat().st_mtime_ns)
    return newest


def kill(process: "subprocess.Popen[bytes]", folder: Path, delay_s: float, in_write: bool) -> str:
    """Kills the job `delay_s` after its first sign of life in the folder, or at the next write; returns what it hit."""
    before = written(folder)
    while written(folder) == before and process.poll() is None:
        time.sleep(0.001)
    time.sleep(delay_s)
    while in_write and not list(folder.rglob(".*.part*")) and process.poll() is None:
        time.sleep(0.0002)
    if process.poll() is not None:
        return ""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
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
    return found


def _load(keras: Any, one: Path, other: Path, name: str) -> list[Any]:
    return [keras.saving.load_model(folder / name) for folder in (one, other)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints one line a kill and the verdict; the exit status is 0 if both runs end alike."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="runs to kill")
    parser.add_argument("--kills", type=int, default=1, help="kills of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", default=ORDERS[0], help=f"TRAIN.stages ({ORDERS[0]})")
    options = parser.parse_args(arguments)
    draw = random.Random(options.seed)  # noqa: S311
    with tempfile.TemporaryDirectory() as place:
        samples, whole = Path(place) / "samples", Path(place) / "whole"
        process = start(whole, samples, options.stages)
        while not whole.exists() and process.poll() is None:
            time.sleep(0.001)
        began = time.monotonic()
        finished(process)
        length_s = time.monotonic() - began
        print(f"the run that is left alone trains for {length_s:.1f} s", flush=True)
        kills = same = 0
        for run in range(options.runs):
            killed = Path(place) / f"killed{run}"
            for number in range(options.kills):
                hit = kill(
                    start(killed, samples, options.stages), killed, draw.uniform(0, length_s), (run + number) % 2 == 1
                )
                kills += bool(hit)
                print(f"run {run}: {hit or 'it had ended'}", flush=True)
            finished(start(killed, samples, options.stages))
            found = differences(whole, killed)
            same += not found
            print(f"run {run}: {'bitwise equal' if not found else 'DIFFERENT: ' + ', '.join(found)}", flush=True)
        print(f"{kills} kills; {same} of {options.runs} runs end bitwise equal to the one that was left alone")
    return 0 if same == options.runs else 1


if __name__ == "__main__":
    sys.exit(main())
