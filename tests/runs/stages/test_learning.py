"""The loop and what it leaves are tested in tests/runs/test_job.py, whole runs at a time."""

from typing import Any

import keras

from lib.pruning import Masks, SoftPruning
from lib.runs.stages.learning import Course, _AfterPruning


def test_a_course_by_steps_by_epochs_and_by_a_cosine() -> None:
    assert Course(9, (1.0, 0.1), steps=(7,)).rates(10).boundaries == (7,)
    by_epochs = Course(9, (1.0, 0.1), decay_epochs=(4,), warmup=3).rates(10)
    assert (by_epochs.boundaries, by_epochs.warmup, by_epochs.cosine) == ((40,), 3, 0)
    assert Course(9, (1.0,), cosine=True).rates(10).cosine == 90


def test_what_a_pruning_invalidates_is_made_anew() -> None:
    done = []

    class Trained:
        def restart_average(self) -> None:
            done.append("average")

        def recalibrate(self, dataset: Any, batches: int) -> None:
            done.append(f"statistics {batches}")

    pruning = SoftPruning(0.5, every=2, first_epoch=3, last_epoch=6)
    after: Any = _AfterPruning(pruning, Trained(), [])  # type: ignore[arg-type]
    assert isinstance(after, keras.callbacks.Callback)
    for epoch in range(3, 7):
        if epoch % 2 == 0:
            pruning.masks = Masks("removable", {"conv1": (epoch,)})
        after.on_epoch_end(epoch)
    assert done == ["average", "average", "statistics 40"]
