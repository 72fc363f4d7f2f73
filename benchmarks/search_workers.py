"""A search on many machines, shown on this one: a chief and two workers, one of which is killed in the middle.

With --kills 8 a chief and a worker run trials on drawn scenes, and one of the two, by chance, is killed with SIGKILL
at a random moment and started again with the same command, eight times; --runs says how often all of this is done.
Whatever was recorded as finished at a kill must be in the final record once, with the same score, and must not have
been started again; and the final record must be that of a search that nobody killed.

On real machines run the same command everywhere, with KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT naming the chief,
and KERASTUNER_TUNER_ID being "chief" on the one and any other id, each its own, on the others:

    KERASTUNER_ORACLE_IP=10.0.0.1 KERASTUNER_ORACLE_PORT=8000 KERASTUNER_TUNER_ID=chief   python pruned_train.py ...
    KERASTUNER_ORACLE_IP=10.0.0.1 KERASTUNER_ORACLE_PORT=8000 KERASTUNER_TUNER_ID=worker1 python pruned_train.py ...
"""

import argparse
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lib.errors import TrainingError
from lib.files import read_json
from lib.search.tuner import as_environment
from lib.tables import markdown_table

TRIALS = 24
DRAWN_TRIALS = 40  # of the search that is killed
RUN_S = 900.0  # until its end counts as missed


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


def take_part_drawn(folder: Path) -> None:
    """What chief and worker of `show_kills` do: trials of a small detector on drawn scenes."""
    import keras

    from lib.config import Config
    from lib.data.annotations import read_annotations
    from lib.data.scenes import ensure_samples
    from lib.runs.wiring import make_trainer, search_settings
    from lib.search.oracle import Proposal
    from lib.search.run import Search
    from lib.search.tuner import Measurement, SearchTuner
    from tests.detectors import small_detector

    config = Config()
    config.DATA.hin = config.DATA.win = 64
    config.TRAIN.batch_size, config.TRAIN.process_num = 4, 1
    config.SEARCH.groups = {"fine": ["conv1"], "coarse": ["conv3"]}
    config.SEARCH.target, config.SEARCH.tolerance = 0.6, 0.03
    config.SEARCH.n_init_points, config.SEARCH.n_opt_iterations = DRAWN_TRIALS // 2, DRAWN_TRIALS // 2 - 1
    config.SEARCH.steps, config.SEARCH.recalibration_batches = 8, 2
    drawn = ensure_samples(folder.parent / "samples", seed=1, train_scenes=32, val_scenes=1)
    keras.utils.set_random_seed(0)
    trainer = make_trainer(small_detector(channels=64), config)
    records = read_annotations(drawn.train_annotations, drawn.train_images)
    search = Search(search_settings(config), trainer, records, folder)

    def measure(proposal: Proposal) -> Measurement:
        _log(folder, f"start {proposal.number}")
        found = search.trials(proposal)
        _log(folder, f"end {proposal.number} {found.val_loss!r}")
        return found

    SearchTuner(search.oracle, measure, folder / "search").search()


def _log(folder: Path, line: str) -> None:
    with (folder / "log.txt").open("a") as log:
        log.write(f"{line}\n")


class Pair:
    """A chief and a worker of one search, each started again as often as it is killed."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self._port = server.getsockname()[1]
        self.folder = folder
        folder.mkdir()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("chief", "worker"):
            self.start(name)

    def start(self, name: str) -> None:
        environment = {**os.environ, **as_environment(name, "127.0.0.1", self._port)}
        command = [sys.executable, __file__, "--take-part", str(self.folder), "--drawn"]
        with (self.folder / f"{name}.txt").open("ab") as out:
            self.processes[name] = subprocess.Popen(command, env=environment, stdout=out, stderr=out)  # noqa: S603

    def ended(self, name: str) -> bool:
        """Whether it has come to its end; TrainingError where it failed."""
        code = self.processes[name].poll()
        if code:
            text = (self.folder / f"{name}.txt").read_text(errors="replace")
            raise TrainingError(f"the {name} ended with {code}: {text[-3000:]}")
        return code is not None

    def kill(self, name: str) -> None:
        self.processes[name].send_signal(signal.SIGKILL)
        self.processes[name].wait()

    def end(self) -> None:
        for name in self.processes:
            self.kill(name)

    def lines(self) -> list[str]:
        log = self.folder / "log.txt"
        return log.read_text().splitlines() if log.is_file() else []

    def recorded(self) -> dict[int, float]:
        """Score of each trial that is finished, as its own file says at this moment."""
        trials = [read_json(file) for file in self.folder.glob("search/trial_*/trial.json")]
        return {int(item["trial_id"]): item["score"] for item in trials if item["status"] == "COMPLETED"}

    def rows(self) -> list[tuple[int, float, float]]:
        """Trial, loss and score of the final record."""
        from lib.search.trial_table import read_table

        return [
            (int(row["trial"]), row["val_loss"], row["objective"]) for row in read_table(self.folder / "search.csv")[1]
        ]


def _wait(pair: Pair, until: float, ready: Callable[[], bool]) -> None:
    while not ready() and not pair.ended("chief"):
        time.sleep(0.01)
        if time.monotonic() > until:
            states = {name: process.poll() for name, process in pair.processes.items()}
            raise TrainingError(f"not at an end after {RUN_S:.0f} s; {len(pair.recorded())} recorded; {states}")


def show_kills(folder: Path, kills: int, seed: int, expected: list[tuple[int, float, float]]) -> list[str]:
    """One search whose chief and worker are killed; returns a row of the table.

    Raises:
        TrainingError: a process failed or did not end, a finished trial was lost, changed or run again, or the final
            record is not the expected one.

    """
    draw = random.Random(seed)  # noqa: S311
    pair = Pair(folder)
    end = time.monotonic() + RUN_S
    recorded: list[tuple[int, dict[int, float]]] = []  # at each kill: lines of the log, and what was finished
    killed: Counter[str] = Counter()
    try:
        for _ in range(kills):
            if draw.random() < 0.75:  # in the middle of the search; else wherever both are, perhaps starting
                seen = len(pair.lines())
                _wait(pair, end, lambda seen=seen: len(pair.lines()) > seen)  # type: ignore[misc]
            time.sleep(draw.uniform(0, 2))
            name = draw.choice(["chief", "worker"])
            if pair.ended("chief") or pair.ended(name):
                break
            pair.kill(name)
            killed[name] += 1
            recorded.append((len(pair.lines()), pair.recorded()))
            pair.start(name)
        _wait(pair, end, lambda: False)
    finally:
        pair.end()
    rows, lines = pair.rows(), pair.lines()
    final = {number: score for number, _, score in rows}
    for seen, finished in recorded:
        if changed := {number for number, score in finished.items() if final.get(number) != score}:
            raise TrainingError(f"finished, but lost or changed: trials {sorted(changed)}")
        if again := {int(line.split()[1]) for line in lines[seen:] if line.startswith("start")} & finished.keys():
            raise TrainingError(f"finished, but started again: trials {sorted(again)}")
    if rows != expected:
        raise TrainingError(f"the final record is not that of an undisturbed search: {rows}; expected {expected}")
    ends = Counter(line.split()[1] for line in lines if line.startswith("end"))
    starts = sum(line.startswith("start") for line in lines)
    twice = sum(count - 1 for count in ends.values())
    return [str(seed), str(killed["chief"]), str(killed["worker"]), str(starts), str(twice), f"{len(rows)}, once each"]


def undisturbed(folder: Path) -> list[tuple[int, float, float]]:
    """The final record of a chief and a worker that nobody kills."""
    pair = Pair(folder)
    try:
        _wait(pair, time.monotonic() + RUN_S, lambda: False)
    finally:
        pair.end()
    rows = pair.rows()
    if [number for number, _, _ in rows] != list(range(DRAWN_TRIALS)):
        raise TrainingError(f"trials {[number for number, _, _ in rows]}; expected each of 0..{DRAWN_TRIALS - 1} once")
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Shows it and prints a table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.5, help="of a trial, where nothing is trained")
    parser.add_argument("--kills", type=int, default=0, help="of a chief or a worker, by chance (0: the other show)")
    parser.add_argument("--runs", type=int, default=5, help="searches with so many kills")
    parser.add_argument("--seed", type=int, default=0, help="of the first run's kills")
    parser.add_argument("--take-part", type=Path, metavar="DIR", help=argparse.SUPPRESS)
    parser.add_argument("--drawn", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.take_part:
        if options.drawn:
            take_part_drawn(options.take_part)
        else:
            take_part(options.take_part, options.seconds)
        return 0
    with tempfile.TemporaryDirectory() as place:
        if not options.kills:
            print(markdown_table(["process", "trials started"], show(Path(place), options.seconds)))
            return 0
        expected = undisturbed(Path(place) / "undisturbed")
        rows = []
        for seed in range(options.seed, options.seed + options.runs):
            rows.append(show_kills(Path(place) / str(seed), options.kills, seed, expected))
            print(f"seed {seed}: nothing lost, nothing run twice", flush=True)
    columns = ["seed", "chief killed", "worker killed", "trials started", "measured twice, unrecorded", "finished"]
    print(markdown_table(columns, rows))
    print(f"{len(rows)} of {options.runs} searches lost no finished trial and ran none twice")
    return 0


if __name__ == "__main__":
    sys.exit(main())
