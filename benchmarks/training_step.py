"""How long a training step takes beside the forward pass alone: python benchmarks/training_step.py."""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lib.console import friendly_errors, start_logging
from lib.tables import markdown_table


def drawn_batch(batch: int, size: int, faces: int) -> tuple[Any, dict[str, Any]]:
    """The same images of noise [B, H, W, 3] and EResFD's targets, faces of 10 px to a fifth of the side, every time."""
    import numpy as np

    from lib.data.batches import TargetSpec
    from lib.geometry.anchors import AnchorSpec

    rng = np.random.default_rng(0)
    spec = TargetSpec(AnchorSpec(), size, size)
    images = rng.uniform(0, 255, (batch, size, size, 3)).astype(np.float32)
    targets = []
    for _ in range(batch):
        corner = rng.uniform(0, 0.8 * size, (faces, 2))
        side = np.exp(rng.uniform(np.log(10), np.log(0.2 * size), (faces, 1)))
        targets.append(spec.targets(np.concatenate([corner, corner + side], axis=1).astype(np.float32)))
    boxes, scores = (np.stack(part) for part in zip(*targets, strict=True))
    return images, {"boxes": boxes, "scores": scores}


def main(arguments: Sequence[str] | None = None) -> int:
    """Times both in turns, so that a busy machine slows both alike, and prints a table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=640, help="input height and width, px")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--faces", type=int, default=12, help="faces an image")
    options = parser.parse_args(arguments)
    start_logging()
    with friendly_errors():
        from lib.config import Config
        from lib.models import build
        from lib.runs.wiring import make_trainer

        size = options.size
        images, targets = drawn_batch(options.batch, size, options.faces)
        trainer = make_trainer(build("eresfd"), Config())
        step = trainer.training_model
        calls: dict[str, Callable[[], Any]] = {
            "forward pass": lambda: trainer.model.predict_on_batch(images),
            "training step": lambda: step.train_on_batch(images, targets),
        }
        times: dict[str, list[float]] = {name: [] for name in calls}
        for round_number in range(options.rounds + 2):
            for name, call in calls.items():
                began = time.perf_counter()
                call()
                if round_number >= 2:  # the first are compiled in
                    times[name].append(time.perf_counter() - began)
        base = statistics.median(times["forward pass"])
        rows = [
            [name, f"{statistics.median(t) * 1e3:.0f}", f"{min(t) * 1e3:.0f}", f"{statistics.median(t) / base:.2f}"]
            for name, t in times.items()
        ]
        print(markdown_table(["EResFD", "median, ms", "best, ms", "ratio of medians"], rows))
        paired = [b / a for a, b in zip(times["forward pass"], times["training step"], strict=True)]
        print(
            f"\nbatch {options.batch}, {size}x{size} px, {options.rounds} rounds in turns; median of the rounds' "
            f"ratios {statistics.median(paired):.2f}; the step was traced {trainer.traces} time(s)"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
