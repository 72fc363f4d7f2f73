"""What a training sample costs, and whether training waits for it: python benchmarks/loader.py [--data FOLDER].

Each part is timed on the same images in turn, in one process and one thread, and given as a multiple of only decoding
the JPEG with OpenCV. With --training: the share of a training step that goes by waiting for the next batch.
"""

import argparse
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lib.console import friendly_errors, start_logging
from lib.tables import markdown_table

Result = TypeVar("Result")


def _records(folder: str, split: str) -> Any:
    from lib.data.annotations import read_annotations
    from lib.data.scenes import ensure_samples

    if folder:
        root = Path(folder)
        return read_annotations(
            root / f"wider_face_split/wider_face_{split}_bbx_gt.txt", root / f"WIDER_{split}" / "images"
        )
    samples = ensure_samples("data/samples")
    return read_annotations(samples.val_annotations, samples.val_images)


class Timer:
    """Milliseconds by label: of the clock and of the processor."""

    def __init__(self) -> None:
        self.clock: dict[str, list[float]] = defaultdict(list)
        self.processor: dict[str, list[float]] = defaultdict(list)

    def __call__(self, label: str, function: Callable[[], Result]) -> Result:
        clock, processor = time.perf_counter(), time.process_time()
        result = function()
        self.processor[label].append(1000 * (time.process_time() - processor))
        self.clock[label].append(1000 * (time.perf_counter() - clock))
        return result


def _samples(records: Any, size: int, rounds: int) -> None:
    import cv2
    import numpy as np

    from lib.data.augment import Sample, keep_targets
    from lib.data.batches import TargetSpec
    from lib.data.images import read_rgb
    from lib.data.recipes import Recipe, training_sample
    from lib.geometry.anchors import AnchorSpec

    cv2.setNumThreads(1)
    timed = Timer()
    spec = TargetSpec(AnchorSpec(), size, size)
    recipes = {"eresfd": Recipe(size, size), "dsfd": Recipe(size, size, anchor_sampling=0.4, name="dsfd")}

    def sample(record: Any, recipe: Recipe, seed: list[int]) -> Sample:
        rng = np.random.default_rng(seed)
        read = Sample(read_rgb(record.image), record.boxes_xyxy_px)
        return keep_targets(training_sample(read, recipe, rng), 0)

    def with_targets(record: Any, recipe: Recipe, seed: list[int]) -> Any:
        drawn = sample(record, recipe, seed)
        return drawn.image, spec.targets(drawn.boxes_xyxy_px)

    for round_ in range(rounds + 1):
        if round_ == 1:
            timed = Timer()  # the first round filled caches
        for index, record in enumerate(records):
            data = np.frombuffer(record.image.read_bytes(), np.uint8)
            timed("decoding alone (cv2.imdecode)", partial(cv2.imdecode, data, cv2.IMREAD_COLOR))
            for name, recipe in recipes.items():
                timed(f"{name}: read and augmented", partial(sample, record, recipe, [round_, index]))
                timed(f"{name}: with targets", partial(with_targets, record, recipe, [round_, index]))
    base = next(iter(timed.clock))
    rows = [
        [
            label,
            f"{statistics.median(clock):.2f}",
            f"{statistics.median(clock) / statistics.median(timed.clock[base]):.2f}",
            f"{statistics.mean(timed.processor[label]) / statistics.mean(timed.processor[base]):.2f}",
        ]
        for label, clock in timed.clock.items()
    ]
    print(f"{len(records)} images, {rounds} rounds, input {size}x{size}, one thread\n")
    print(markdown_table(["a sample", "median ms", "x decoding, medians", "x decoding, mean processor time"], rows))


def _training(records: Any, size: int, batch: int, steps: int, workers: int, model: str) -> None:
    import keras
    import numpy as np

    from lib.data.batches import FaceDataset, TargetSpec
    from lib.data.recipes import Recipe
    from lib.models import anchors_of, build, load
    from lib.training.losses import BoxLoss, ScoreLoss

    network = load(model) if model else build("eresfd")
    jit = False if keras.backend.backend() == "tensorflow" else "auto"
    losses = {"boxes": BoxLoss(), "scores": ScoreLoss(3.0)}
    network.compile(keras.optimizers.Adam(1e-4), loss=losses, jit_compile=jit)
    records = list(records) * -(-steps * batch // len(records))
    records = records[: steps * batch]
    spec = TargetSpec(anchors_of(network), size, size)
    live = FaceDataset(records, spec, batch, Recipe(size, size), workers=workers, prefetch=2)

    class Ready(keras.utils.PyDataset):
        """The first batch again and again: what a step takes without a loader."""

        def __init__(self) -> None:
            super().__init__(workers=workers, max_queue_size=2)
            self.batch = live[0]

        def __len__(self) -> int:
            return steps

        def __getitem__(self, index: int) -> Any:
            return self.batch

    from keras.src.trainers.data_adapters.py_dataset_adapter import OrderedEnqueuer, PyDatasetAdapter

    waits: list[float] = []
    patched = OrderedEnqueuer if workers > 1 else PyDatasetAdapter
    name = "get" if workers > 1 else "_finite_generator"
    original = getattr(patched, name)

    def waiting(self: Any) -> Iterator[Any]:
        batches = original(self)
        while True:
            started = time.perf_counter()
            try:
                item = next(batches)
            except StopIteration:
                return
            waits.append(time.perf_counter() - started)
            yield item

    class Steps(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.ends: list[float] = []

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.ends.append(time.perf_counter())

    network.fit(Ready(), epochs=1, steps_per_epoch=2, verbose=0)  # traced
    times: dict[str, list[float]] = {"loader": [], "ready": []}
    shares = []
    for _ in range(3):
        for label, data in (("loader", live), ("ready", Ready())):
            watch = Steps()
            waits.clear()
            with patch.object(patched, name, waiting):
                network.fit(data, epochs=1, verbose=0, shuffle=False, callbacks=[watch])
            taken = np.diff(watch.ends)
            times[label] += taken.tolist()
            if label == "loader":
                assert len(waits) >= len(taken)
                shares.append(sum(waits[1 : len(taken) + 1]) / taken.sum())
    rows = [
        ["step, batches ready in memory", f"{1000 * statistics.median(times['ready']):.0f} ms"],
        ["step, from the loader", f"{1000 * statistics.median(times['loader']):.0f} ms"],
        ["waiting for the loader's queue, share of the time", f"{statistics.median(shares):.3%}"],
    ]
    print(f"batch {batch} at {size}x{size}, {workers} workers, {os.cpu_count()} cores, {keras.backend.backend()}\n")
    print(markdown_table(["what", "median"], rows))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints a table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="", help="WIDER FACE's folder; without it the built-in samples")
    parser.add_argument("--split", default="val", help="train or val (default)")
    parser.add_argument("--images", type=int, default=100, help="so many images, evenly spaced (default 100)")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds over the images (default 5)")
    parser.add_argument("--size", type=int, default=640, help="height and width of the input, px (default 640)")
    parser.add_argument("--training", action="store_true", help="measure what training waits, not what a sample costs")
    parser.add_argument("--batch", type=int, default=8, help="images a batch, with --training (default 8)")
    parser.add_argument("--steps", type=int, default=12, help="steps an epoch, with --training (default 12)")
    parser.add_argument("--workers", type=int, default=2, help="worker threads, with --training (default 2)")
    parser.add_argument("--model", default="", help="a .keras detector, with --training; without it a new EResFD")
    options = parser.parse_args(arguments)
    start_logging()
    with friendly_errors():
        records = _records(options.data, options.split)
        records = records[:: max(1, len(records) // options.images)][: options.images]
        if options.training:
            _training(records, options.size, options.batch, options.steps, options.workers, options.model)
        else:
            _samples(records, options.size, options.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
