"""The stage that measures what the others left."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import keras

from lib.detection.formats.pb import DetectionSettings, freeze
from lib.evaluation.latency import litert_latencies
from lib.models import load
from lib.runs.results import protocol_of
from lib.runs.stages.base import Stage
from lib.runs.workbench import Workbench

logger = logging.getLogger(__name__)


class Evaluate(Stage):
    """Measures every model that has no figures yet, or figures by another protocol; it can be run again and again.

    Once channels have been taken out, the first model, the one they were taken out of and the last are also frozen,
    and timed in turns.

    Args:
        rounds: timings of each model; 0: none, and no frozen graphs.

    """

    name = "evaluate"
    again = True

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds

    def run(self, bench: Workbench) -> None:
        folder, protocol = bench.folder, protocol_of(bench.detection)
        for row in folder.state.rows:
            if row.protocol != protocol:
                row.ap = row.pb_bytes = row.latency_ms = None
            if row.ap is None:
                row.ap = bench.average_precision(folder.outcome(row.stage), bench.data.val, f"evaluating {row.stage}")
                row.protocol = protocol
                folder.save_state()
        self._time(bench)

    def _time(self, bench: Workbench) -> None:
        folder, removal = bench.folder, bench.folder.state.removal
        if not removal or not self.rounds:
            return
        rows = {row.stage: row for row in folder.state.rows}
        ends = (folder.state.rows[0].stage, removal.of, folder.state.rows[-1].stage)
        models = dict.fromkeys(name for name in rows if name in ends)
        if all(rows[name].latency_ms is not None for name in models):
            return
        figures = measured(
            {name: load(folder.outcome(name)) for name in models},
            *bench.cost_size_px,
            bench.detection,
            rounds=self.rounds,
            pb_file=lambda name: folder.outcome(name, ".pb"),
        )
        for name, row in rows.items():  # only times of one measurement can be compared
            row.pb_bytes, row.latency_ms = figures.get(name, (None, None))
        folder.save_state()


def measured(
    models: Mapping[str, keras.Model],
    height_px: int,
    width_px: int,
    settings: DetectionSettings,
    *,
    rounds: int,
    pb_file: Callable[[str], Path],
) -> dict[str, tuple[int, float]]:
    """By name: bytes of the frozen graph, and LiteRT's milliseconds on one thread, the shortest; {} without TensorFlow.

    Args:
        pb_file: where a model's frozen graph is written.

    """
    if keras.backend.backend() != "tensorflow":
        logger.info("frozen graphs and latencies are TensorFlow's; Keras runs on %s", keras.backend.backend())
        return {}
    times = litert_latencies(models, height_px, width_px, rounds)
    return {name: (freeze(model, pb_file(name), settings)[0], times[name].best_ms) for name, model in models.items()}
