"""What the search itself costs a trial, and how good its proposals are, beside KerasTuner's BayesianOptimization.

Both are asked for proposals of six rates after so many finished trials of a dummy objective; the stock one for a few
proposals only, because it takes long. Then both minimise three functions of six variables, several seeds each.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # for both: with more, a busy machine is measured instead
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import keras_tuner
import numpy as np

from lib.arrays import FloatArray
from lib.search.proposals import Proposer
from lib.tables import markdown_table
from tests.search.toys import toy_loss, toy_oracle

NAMES = tuple("abcdef")
_HARTMANN_A = np.array(
    [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]
)
_HARTMANN_P = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)


def hartmann(x: FloatArray) -> float:
    """Six local minima; the lowest is -3.32237."""
    return -float(np.array([1, 1.2, 3, 3.2]) @ np.exp(-(_HARTMANN_A * (x - _HARTMANN_P) ** 2).sum(axis=1)))


def ackley(x: FloatArray) -> float:
    """Ripples around a funnel; 0 at 0.35 in every coordinate."""
    z = 4 * (x - 0.35)
    ripples = np.exp(np.cos(2 * np.pi * z).mean())
    return float(20 + np.e - 20 * np.exp(-0.2 * np.sqrt((z**2).mean())) - ripples)


def rosenbrock(x: FloatArray) -> float:
    """A bent valley, logarithmic; 0 at 2/3 in every coordinate."""
    z = 3 * x - 1
    return float(np.log1p((100 * (z[1:] - z[:-1] ** 2) ** 2 + (1 - z[:-1]) ** 2).sum()))


FUNCTIONS: dict[str, Callable[[FloatArray], float]] = {"Hartmann": hartmann, "Ackley": ackley, "Rosenbrock": rosenbrock}


def finish(oracle: Any, trial: Any, value: float) -> None:
    """Reports a value of the oracle's objective."""
    oracle.update_trial(trial.trial_id, {oracle.objective.name: value, "val_loss": value, "seconds": 0.0})
    trial.status = "COMPLETED"
    oracle.end_trial(trial)


def stock_oracle(trials: int, initial: int, seed: int, folder: str) -> Any:
    """KerasTuner's own, over six rates, minimising."""
    space = keras_tuner.HyperParameters()
    for name in NAMES:
        space.Float(name, 0.0, 1.0)
    oracle = keras_tuner.oracles.BayesianOptimizationOracle(
        objective=keras_tuner.Objective("value", "min"),
        max_trials=trials,
        num_initial_points=initial,
        seed=seed,
        hyperparameters=space,
    )
    oracle._set_project_dir(folder, "search")
    oracle.verbose = 0
    return oracle


def own_seconds(histories: Sequence[int], samples: int, folder: str) -> dict[int, list[float]]:
    """Seconds of a trial, proposal, bookkeeping and files, after so many random trials; the first one may fit."""
    found: dict[int, list[float]] = {}
    for count in histories:
        oracle = toy_oracle((0.6,), count - 1, samples)
        oracle._set_project_dir(f"{folder}/{count}", "search")
        found[count] = []
        for number in range(count + samples):
            started = time.perf_counter()
            trial = oracle.create_trial("tuner0")
            finish(oracle, trial, -toy_loss(np.array([trial.hyperparameters.values[name] for name in NAMES])))
            if number >= count:
                found[count].append(time.perf_counter() - started)
    return found


def stock_seconds(histories: Sequence[int], samples: int, folder: str) -> dict[int, list[float]]:
    """The same of the stock oracle, after histories of random trials."""
    found: dict[int, list[float]] = {}
    for count in histories:
        oracle = stock_oracle(count + samples + 1, count, 1, f"{folder}/{count}")
        for _ in range(count):
            trial = oracle.create_trial("tuner0")
            finish(oracle, trial, toy_loss(np.array(list(trial.hyperparameters.values.values()))))
        found[count] = []
        for _ in range(samples):
            started = time.perf_counter()
            trial = oracle.create_trial("tuner0")
            finish(oracle, trial, toy_loss(np.array([trial.hyperparameters.values[name] for name in NAMES])))
            found[count].append(time.perf_counter() - started)
    return found


def own_best(function: Callable[[FloatArray], float], trials: int, initial: int, seed: int) -> float:
    """The lowest value that our proposals find."""
    proposer = Proposer(np.zeros(6, bool), lambda points: points)
    rng = np.random.default_rng(seed)
    points = rng.uniform(size=(initial, 6))
    while len(points) < trials:
        values = np.array([function(point) for point in points])
        points = np.concatenate([points, proposer.propose(points, values, np.zeros((0, 6)), rng)[:1]])
    return min(function(point) for point in points)


def stock_best(function: Callable[[FloatArray], float], trials: int, initial: int, seed: int, folder: str) -> float:
    """The lowest value that the stock oracle finds."""
    oracle = stock_oracle(trials, initial, seed + 1, folder)
    best = np.inf
    for _ in range(trials):
        trial = oracle.create_trial("tuner0")
        value = function(np.array([trial.hyperparameters.values[name] for name in NAMES]))
        finish(oracle, trial, value)
        best = min(best, value)
    return float(best)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints two tables; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--histories", type=int, nargs="+", default=[100, 300, 1000], help="finished trials")
    parser.add_argument("--stock-histories", type=int, nargs="*", default=[100, 300])
    parser.add_argument("--samples", type=int, default=10, help="proposals timed of ours; of the stock oracle 2")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=40, help="of a minimisation")
    parser.add_argument("--initial", type=int, default=18, help="random ones among them")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        own = own_seconds(options.histories, options.samples, f"{folder}/own")
        stock = stock_seconds(options.stock_histories, 2, f"{folder}/stock")
        rows = []
        for count in options.histories:
            mean = float(np.mean(own[count]))
            other = float(np.mean(stock[count])) if count in stock else None
            rows.append(
                [
                    str(count),
                    f"{mean:.3f}",
                    f"{max(own[count]):.3f}",
                    "" if other is None else f"{other:.2f}",
                    "" if other is None else f"{other / mean:.0f}x",
                ]
            )
        header = ["finished trials", "ours, s a trial", "slowest", "BayesianOptimization, s a trial", "ratio"]
        print(markdown_table(header, rows), flush=True)
        rows = []
        for name, function in FUNCTIONS.items():
            ours = [own_best(function, options.trials, options.initial, seed) for seed in range(options.seeds)]
            theirs = [
                stock_best(function, options.trials, options.initial, seed, f"{folder}/{name}{seed}")
                for seed in range(options.seeds)
            ]
            rows.append([name, f"{np.mean(ours):.3f}", f"{np.mean(theirs):.3f}"])
        print()
        title = f"lowest of {options.trials}, mean of {options.seeds} seeds"
        print(markdown_table([title, "ours", "BayesianOptimization"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
