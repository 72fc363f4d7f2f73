"""Milliseconds, measured so that they can be compared: everything in turns, in one process, again and again."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import keras
import numpy as np

from lib.detection.formats import litert

WARM_UPS = 3


@dataclass(frozen=True)
class Latency:
    """Time of one call, in milliseconds: the median, and the shortest, which a busy machine disturbs least."""

    median_ms: float
    best_ms: float


def interleaved(functions: Mapping[str, Callable[[], Any]], rounds: int = 60) -> dict[str, Latency]:
    """Times every function once a round, in an order that rotates, so that a disturbance meets them all alike.

    Compare the figures of one call with each other: their ratios mean much, their values little on a shared machine.
    """
    names = list(functions)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for round_number in range(-WARM_UPS, rounds):
        turn = round_number % len(names)
        for name in names[turn:] + names[:turn]:
            start = perf_counter()
            functions[name]()
            if round_number >= 0:
                seconds[name].append(perf_counter() - start)
    return {name: Latency(1e3 * float(np.median(times)), 1e3 * min(times)) for name, times in seconds.items()}


def litert_latencies(
    models: Mapping[str, keras.Model], height_px: int, width_px: int, rounds: int = 60, threads: int = 1
) -> dict[str, Latency]:
    """Time of an inference of each detector in LiteRT at one image size, interleaved; NMS is not in it.

    Raises:
        ModelError: one of the models is no detector, or LiteRT cannot be used.

    """
    with tempfile.TemporaryDirectory() as folder:
        runners = {}
        for number, (name, model) in enumerate(models.items()):
            file = Path(folder) / f"{number}.tflite"
            litert.write(model, file, (height_px, width_px))
            runners[name] = litert.LiteRTModel(file, threads).invoke
        return interleaved(runners, rounds)
