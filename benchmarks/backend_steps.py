"""How long a training step of EResFD takes on each backend, beside one another.

    python benchmarks/backend_steps.py --backends tensorflow jax torch

Every backend has a process of its own with one thread; they take their steps in turns, so that a busy machine
slows all alike. The first step is compiled and counted apart.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.turns import Server
from lib.tables import markdown_table

ONE_THREAD = {
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}


def serve(batch: int, size: int, faces: int) -> None:
    """A step for every line of the standard input; answers with its seconds, the first with those of compiling too."""
    from benchmarks.training_step import drawn_batch
    from lib.config import Config
    from lib.models import build
    from lib.runs.wiring import make_trainer

    images, targets = drawn_batch(batch, size, faces)
    trainer = make_trainer(build("eresfd"), Config())
    for _ in sys.stdin:
        began = time.perf_counter()
        trainer.training_model.train_on_batch(images, targets)
        print(time.perf_counter() - began, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Times the backends in turns and prints a table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--backends", nargs="+", default=["tensorflow", "jax"], help="the first is what others are held against"
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=320, help="input height and width, px")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--faces", type=int, default=12, help="faces an image")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        serve(options.batch, options.size, options.faces)
        return 0
    same = ["--batch", str(options.batch), "--size", str(options.size), "--faces", str(options.faces)]
    servers = {
        backend: Server([__file__, "--serve", *same], {**ONE_THREAD, "KERAS_BACKEND": backend})
        for backend in options.backends
    }
    times: dict[str, list[float]] = {backend: [] for backend in servers}
    for _ in range(options.rounds + 2):
        for backend, server in servers.items():
            times[backend].append(server.turn())
    for server in servers.values():
        server.end()
    first = times[options.backends[0]][2:]
    rows = [
        [
            backend,
            f"{taken[0]:.1f}",
            f"{1e3 * statistics.median(taken[2:]):.0f}",
            f"{1e3 * min(taken[2:]):.0f}",
            f"{statistics.median(own / other for own, other in zip(taken[2:], first, strict=True)):.2f}",
        ]
        for backend, taken in times.items()
    ]
    print(markdown_table(["backend", "first step, s", "median, ms", "best, ms", "to the first, in turns"], rows))
    print(f"\nEResFD, {options.size}x{options.size} px, batches of {options.batch}, one core, {options.rounds} rounds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
