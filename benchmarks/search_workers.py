"""A search on many machines, shown on this one: a chief and two workers, one of which is killed in the middle.

On real machines run the same command everywhere, with KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT naming the chief,
and KERASTUNER_TUNER_ID being "chief" on the one and any other id, each its own, on the others:

    KERASTUNER_ORACLE_IP=10.0.0.1 KERASTUNER_ORACLE_PORT=8000 KERASTUNER_TUNER_ID=chief   python pruned_train.py ...
    KERASTUNER_ORACLE_IP=10.0.0.1 KERASTUNER_ORACLE_PORT=8000 KERASTUNER_TUNER_ID=worker1 python pruned_train.py ...
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lib.errors import TrainingError
from lib.search.tuner import as_environment
from lib.tables import markdown_table

TRIALS = 24


def take_part(folder: Path, seconds: float) -> None:
    """What each of the processes does: search a toy, as the chief or as a worker, as the environment says."""
    from lib.search.oracle import Proposal
    from lib.search.trial_table import Figures, TrialTable
    from lib.search.tuner import Measurement, SearchTuner
    from tests.search.toys import toy_measure, toy_oracle, toy_space

    def measure(proposal: Proposal) -> Measurement:
        with (folder / "log.txt").open("a") as log:
            log.write(f"{os.environ['KERASTUNER_TUNER_ID']} {proposal.number}\n")
        time.sleep(seconds)
        return toy_measure(proposal)

    record = TrialTable(folder / "search.csv", toy_space(), lambda _: Figures(0, 0))
    oracle = toy_oracle(random=TRIALS // 2, guided=TRIALS - TRIALS // 2 - 1, on_finished=record.update, lease_s=3.0)
    SearchTuner(oracle, measure, folder / "search").search()


def show(folder: Path, seconds: float) -> list[list[str]]:
    """Runs the three processes, kills a worker in its third trial, and returns who ran what.

    Raises:
        TrainingError: a trial was lost or finished twice.

    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    command = [sys.executable, __file__, "--seconds", str(seconds), "--take-part", str(folder)]
    processes = {
        name: subprocess.Popen(command, env={**os.environ, **as_environment(name, "127.0.0.1", port)})  # noqa: S603
        for name in ("chief", "worker1", "worker2")
    }
    log = folder / "log.txt"
    try:
        while not log.is_file() or _started(log)["worker2"] < 3:
            time.sleep(0.05)
            if processes["chief"].poll() is not None:
                raise TrainingError("the chief ended before worker2 had three trials")
        processes["worker2"].send_signal(signal.SIGKILL)
        for name in ("worker1", "chief"):
            if processes[name].wait(timeout=300):
                raise TrainingError(f"{name} failed")
    finally:
        for process in processes.values():
            process.kill()
    from lib.search.trial_table import read_table

    finished = [int(row["trial"]) for row in read_table(folder / "search.csv")[1]]
    if finished != list(range(TRIALS)):
        raise TrainingError(f"finished trials: {finished}; expected each of 0..{TRIALS - 1} once")
    started = _started(log)
    return [[name, str(started[name])] for name in ("worker1", "worker2")] + [["finished, each once", str(TRIALS)]]


def _started(log: Path) -> Counter[str]:
    return Counter(line.split()[0] for line in log.read_text().splitlines())


def main(arguments: Sequence[str] | None = None) -> int:
    """Shows it and prints a table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=0.5, help="of a trial")
    parser.add_argument("--take-part", type=Path, metavar="DIR", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.take_part:
        take_part(options.take_part, options.seconds)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        print(markdown_table(["process", "trials started"], show(Path(folder), options.seconds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
