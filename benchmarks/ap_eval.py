"""Times the WIDER FACE evaluation, reading included, against a plain Python read-and-parse of the same files.

Seconds depend on the machine, their ratio hardly does. The reference's ratio, from a JSON file with the key
`reference_seconds_over_plain_read_and_parse`, divided by ours says how many times faster we are.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lib.console import friendly_errors, start_logging
from lib.errors import DataError
from lib.evaluation.ground_truth import read_ground_truth
from lib.evaluation.matching import COMPILED, NUMPY, Kernels
from lib.evaluation.prediction_files import read_predictions
from lib.evaluation.wider import evaluate_wider
from lib.files import read_json
from lib.tables import markdown_table

REFERENCE_KEY = "reference_seconds_over_plain_read_and_parse"


def plain_read_and_parse(files: Sequence[Path]) -> list[list[list[float]]]:
    """The yardstick: what anyone would write first."""
    parsed = []
    for path in files:
        with path.open() as file:
            lines = file.readlines()
        parsed.append([[float(value) for value in line.split()] for line in lines[2:]])
    return parsed


def least_seconds(runs: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """The best of `rounds` for each, taken in turn, so that a busy moment of the machine meets all of them."""
    best = [float("inf")] * len(runs)
    for _ in range(rounds):
        for index, run in enumerate(runs):
            started = time.perf_counter()
            run()
            best[index] = min(best[index], time.perf_counter() - started)
    return best


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints a table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pred", required=True, metavar="DIR", help="the unpacked result folder")
    parser.add_argument("--gt", required=True, metavar="DIR", help="folder of the four official .mat files")
    parser.add_argument("--expected", metavar="JSON", help=f"file with {REFERENCE_KEY}")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    start_logging()
    with friendly_errors():
        files = sorted(Path(options.pred).glob("*/*.txt"))
        if not files:
            raise DataError(f"{options.pred}: no prediction files in its folders")

        def evaluate(kernels: Kernels) -> None:
            truth = read_ground_truth(options.gt)
            evaluate_wider(truth, read_predictions(options.pred, truth.names)[0], kernels)

        kernels = [kernel for kernel in (COMPILED, NUMPY) if kernel is not None]
        names = ["plain Python, read and parse only", *(f"evaluation, {kernel.name}" for kernel in kernels)]
        runs: list[Callable[[], object]] = [lambda: plain_read_and_parse(files)]
        runs += [lambda kernel=kernel: evaluate(kernel) for kernel in kernels]  # type: ignore[misc]
        seconds = least_seconds(runs, options.rounds)
        reference = float(read_json(options.expected)[REFERENCE_KEY]) if options.expected else None
        rows = [
            [
                name,
                f"{taken:.3f}",
                f"{taken / seconds[0]:.2f}",
                f"{reference * seconds[0] / taken:.0f}x" if reference and index else "",
            ]
            for index, (name, taken) in enumerate(zip(names, seconds, strict=True))
        ]
        print(markdown_table(["what", "s", "ratio to plain", "faster than the reference"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
