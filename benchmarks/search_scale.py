"""How far a search scales: trials an hour by the number of workers, and what the chief does for each.

A trial here sleeps for --seconds, so that what is left is the search itself: KerasTuner's chief, the oracle, and the
way between them and the workers. Every line of the first table is a chief and so many workers on this machine; with
--threads 25 a process stands for 25 workers, each with a connection of its own.

    python benchmarks/search_scale.py --workers 1 8 --seconds 1 --trials 240
    python benchmarks/search_scale.py --workers 100 --threads 25 --seconds 10 --trials 1000
    python benchmarks/search_scale.py --recorded 1000

The last measures nothing but the oracle: one process alone runs a thousand trials that cost nothing, and goes on from
them as after a kill.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lib.errors import TrainingError
from lib.files import read_json, write_json
from lib.search.tuner import as_environment
from lib.tables import markdown_table

WINDOW = 20  # trials over which the oracle's time at a number of recorded ones is averaged


def search_tuner(folder: Path, trials: int, measure: Any) -> Any:
    """A search of six groups, a third of its trials random; its record is written as in a run."""
    from lib.search.trial_table import Figures, TrialTable
    from lib.search.tuner import SearchTuner
    from tests.search.toys import toy_oracle, toy_space

    record = TrialTable(folder / "search.csv", toy_space(), lambda _: Figures(0, 0))
    oracle = toy_oracle(random=trials // 3, guided=trials - trials // 3 - 1, on_finished=record.update)
    return SearchTuner(oracle, measure, folder / "search")


def take_part(folder: Path, seconds: float, trials: int, threads: int) -> None:
    """What each process does: the chief writes its processor time, a worker when each of its trials began and ended."""
    from tests.search.toys import toy_measure

    name, times = os.environ["KERASTUNER_TUNER_ID"], list[tuple[float, float]]()

    def measure(proposal: Any) -> Any:
        began = time.time()
        time.sleep(seconds)
        times.append((began, time.time()))
        return toy_measure(proposal)

    tuners = []
    for index in range(threads):
        if threads > 1:
            os.environ["KERASTUNER_TUNER_ID"] = f"{name}-{index}"
        tuners.append(search_tuner(folder, trials, measure))
    started = time.process_time()
    running = [threading.Thread(target=tuner.search) for tuner in tuners[1:]]
    for thread in running:
        thread.start()
    tuners[0].search()
    for thread in running:
        thread.join()
    write_json(folder / f"{name}.json", {"times": times, "cpu_s": time.process_time() - started})


def with_workers(folder: Path, workers: int, threads: int, seconds: float, trials: int) -> list[str]:
    """One search; a row: workers, trials an hour while all of them work, share of what sleeping alone allows, CPU.

    Raises:
        TrainingError: a process failed, or a trial is missing.

    """
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    names = ["chief", *(f"worker{index}" for index in range(-(-workers // threads)))]
    options = ["--seconds", str(seconds), "--trials", str(trials), "--take-part", str(folder)]
    running = {}
    for index, name in enumerate(names):
        own = min(threads, workers - (index - 1) * threads) if index else 1
        running[name] = subprocess.Popen(  # noqa: S603
            [sys.executable, __file__, *options, "--threads", str(own)],
            env={**os.environ, **as_environment(name, "127.0.0.1", port)},
        )
    try:
        for name, process in running.items():
            if process.wait(timeout=3600):
                raise TrainingError(f"{name} failed")
    finally:
        for process in running.values():
            process.kill()
    reports = {name: read_json(folder / f"{name}.json") for name in names}
    times = [(name, *pair) for name in names[1:] for pair in reports[name]["times"]]
    if len(times) != trials:
        raise TrainingError(f"{len(times)} trials were run, expected {trials}")
    all_here = sorted(began for _, began, _ in times)[workers - 1]  # each worker has one by then, or nearly
    last = max(began for _, began, _ in times)
    between = sum(all_here < began <= last for _, began, _ in times)
    hourly = 3600 * between / (last - all_here)
    ideal = 3600 * workers / seconds
    cpu = reports["chief"]["cpu_s"] / trials
    return [str(workers), f"{seconds:g}", str(trials), f"{hourly:.0f}", f"{hourly / ideal:.2f}", f"{1e3 * cpu:.0f}"]


def recorded(folder: Path, trials: int) -> list[list[str]]:
    """Rows: what the oracle needs a trial when so many are recorded, and to go on from all of them."""
    from tests.search.toys import toy_measure

    ends: list[float] = []

    def measure(proposal: Any) -> Any:
        ends.append(time.perf_counter())
        return toy_measure(proposal)

    search_tuner(folder, trials, measure).search()
    rows = []
    for number in sorted({count for count in (50, 100, 250, 500, 1000, 2000, trials) if count <= trials}):
        window = ends[max(0, number - WINDOW - 1) : number]
        rows.append([f"a trial, {number} recorded", f"{1e3 * (window[-1] - window[0]) / (len(window) - 1):.0f}"])
    began = time.perf_counter()
    tuner = search_tuner(folder, trials, measure)
    rows.append([f"going on from {trials}", f"{1e3 * (time.perf_counter() - began):.0f}"])
    if len(tuner.oracle.finished()) != trials:
        raise TrainingError(f"{len(tuner.oracle.finished())} of {trials} trials were there again")
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints a table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8], help="of each search (1 8)")
    parser.add_argument("--threads", type=int, default=1, help="workers a process stands for (1)")
    parser.add_argument("--seconds", type=float, default=1.0, help="that a trial sleeps (1)")
    parser.add_argument("--trials", type=int, default=240, help="of a search (240)")
    parser.add_argument("--recorded", type=int, help="time the oracle alone, over so many trials")
    parser.add_argument("--take-part", type=Path, metavar="DIR", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.take_part:
        take_part(options.take_part, options.seconds, options.trials, options.threads)
        return 0
    with tempfile.TemporaryDirectory() as place:
        if options.recorded:
            print(markdown_table(["the oracle alone", "ms"], recorded(Path(place), options.recorded)))
            return 0
        rows = []
        for workers in options.workers:
            folder = Path(place) / str(workers)
            rows.append(with_workers(folder, workers, options.threads, options.seconds, options.trials))
            print(f"{workers} workers: {rows[-1][3]} trials an hour", flush=True)
    columns = [
        "workers",
        "seconds a trial",
        "trials",
        "trials an hour",
        "of workers / seconds",
        "chief, CPU ms a trial",
    ]
    print(markdown_table(columns, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
