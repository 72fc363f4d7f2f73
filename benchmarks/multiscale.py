"""Where the time of a test protocol goes: python benchmarks/multiscale.py --model DETECTOR.keras --images FOLDER."""

import argparse
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lib.console import friendly_errors, start_logging
from lib.errors import DataError, ModelError
from lib.tables import markdown_table

REST = "everything else"


class Stopwatch:
    """Seconds by label; what a nested label takes is not counted for the label around it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._running: list[str] = []
        self._since = 0.0

    def timed(self, label: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            self._lap()
            self._running.append(label)
            try:
                return function(*args, **kwargs)
            finally:
                self._lap()
                self._running.pop()

        return wrapper

    def _lap(self) -> None:
        now = time.perf_counter()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="a .keras detector")
    parser.add_argument("--images", required=True, help="folder of images")
    parser.add_argument("--protocol", default="multiscale", help="single, multiscale (default) or pruned_dsfd")
    parser.add_argument("--repeats", type=int, default=3, help="timed rounds over the images (default 3)")
    options = parser.parse_args(arguments)
    start_logging()
    with friendly_errors():
        from lib.data.images import read_rgb
        from lib.detection import candidates, protocols
        from lib.detection import detector as detection
        from lib.detection.formats.keras import KerasNetwork

        if options.protocol not in protocols.PROTOCOLS or options.repeats < 1:
            raise DataError(f"expected a protocol of {', '.join(protocols.PROTOCOLS)} and at least one repeat")
        paths = sorted(Path(options.images).glob("*.jpg"))
        if not paths:
            raise DataError(f"{options.images}: no .jpg images in it")
        images = [read_rgb(path) for path in paths]
        protocol = protocols.PROTOCOLS[options.protocol]
        detector = detection.FaceDetector(options.model, max_detections=protocol.max_detections)
        if not isinstance(detector.network, KerasNetwork):
            raise ModelError(f"{options.model}: expected a .keras model, whose parts can be timed")

        started = time.perf_counter()
        protocol(detector, images[0])
        first = time.perf_counter() - started
        for image in images[1:]:
            protocol(detector, image)

        rounds = []
        parts: list[tuple[str, Any, str]] = [
            ("network", detector.network.model, "predict_on_batch"),
            ("candidates: softmax, best 5000, decoding", detector.network, "candidates"),
            ("anchor grids", candidates, "anchor_grid"),
            ("NMS", detection, "nms"),
            ("resizing", protocols, "_rescaled"),
            ("resizing", protocols, "_resized"),
            ("box voting", protocols, "vote"),
        ]
        watch = Stopwatch()
        with ExitStack() as stack:
            for label, owner, name in parts:
                stack.enter_context(patch.object(owner, name, watch.timed(label, getattr(owner, name))))
            test = watch.timed(REST, protocol)
            for _ in range(options.repeats):
                for image in images:
                    started = time.perf_counter()
                    test(detector, image)
                    rounds.append(time.perf_counter() - started)
        whole = sum(watch.seconds.values())
        rows = [
            [label, f"{1000 * seconds / len(rounds):.1f}", f"{seconds / whole:.1%}"]
            for label, seconds in sorted(watch.seconds.items(), key=lambda item: -item[1])
        ]
        rows.append(["in all", f"{1000 * whole / len(rounds):.1f}", "100.0%"])
        print(f"{options.protocol}, {len(images)} images, {options.repeats} rounds, {os.cpu_count()} cores\n")
        print(markdown_table(["part", "ms an image", "share"], rows))
        print(f"\nmedian {statistics.median(rounds):.3f} s, slowest {max(rounds):.3f} s, the very first {first:.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
