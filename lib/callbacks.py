"""What happens around Keras' training loop: rates, guards, validation, checkpoints."""

import csv
import io
import logging
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from lib.activity import ActivityProbe
from lib.cost import layer_costs
from lib.errors import TrainingError
from lib.files import write_text
from lib.models import save
from lib.runs import RunFolder

logger = logging.getLogger(__name__)
Logs = dict[str, Any] | None


class PiecewiseRate(keras.callbacks.Callback):
    """Piecewise constant learning rate by step of the stage; it depends on the step alone, so a restart finds it again.

    Args:
        values: the rates, one more than `boundaries`.
        boundaries: steps, counted from 0 at the stage's start, at which the next value begins.
        first_epoch: the stage's first epoch, counted from 0.
        steps_per_epoch: steps of an epoch.

    """

    def __init__(
        self, values: tuple[float, ...], boundaries: tuple[int, ...], first_epoch: int, steps_per_epoch: int
    ) -> None:
        super().__init__()
        self.values, self.boundaries = values, boundaries
        self.first_epoch, self.steps_per_epoch = first_epoch, steps_per_epoch
        self.epoch = first_epoch
        self.current: float | None = None

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self.epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        step = (self.epoch - self.first_epoch) * self.steps_per_epoch + batch
        rate = self.values[sum(step >= boundary for boundary in self.boundaries)]
        if rate != self.current:
            self.model.optimizer.learning_rate = self.current = rate


class DatasetEpoch(keras.callbacks.Callback):
    """Tells a dataset which epoch it is in, before Keras starts its workers.

    The dataset's own hooks cannot: Keras calls `on_epoch_end` once before the first epoch, and `on_epoch_begin` after
    the workers have started. Use it with `fit(shuffle=False)`, or Keras reorders the batches by its own generator.
    """

    def __init__(self, dataset: Any) -> None:
        super().__init__()
        self.dataset = dataset

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self.dataset.epoch = epoch


class StopOnNonFinite(keras.callbacks.Callback):
    """Stops the run as soon as a loss term is not finite, and names it."""

    def __init__(self, folder: RunFolder) -> None:
        super().__init__()
        self.folder = folder
        self.epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        terms = {name: float(value) for name, value in (logs or {}).items()}
        # The sum is as bad as its terms: name a term if there is one to name.
        bad = [name for name, value in terms.items() if not math.isfinite(value)]
        bad.sort(key="loss".__eq__)
        if bad:
            progress = self.folder.state["progress"]
            last = self.folder.checkpoint(progress["epoch"]) if progress else "none of this stage"
            raise TrainingError(
                f"{bad[0]} is not finite in epoch {self.epoch + 1}, batch {batch} "
                f"({', '.join(f'{name} {value:g}' for name, value in terms.items())}); last good checkpoint: {last}; "
                "a lower learning rate usually helps"
            )


class Validation(keras.callbacks.Callback):
    """Loss terms on the validation images at the end of an epoch, added to the epoch's logs as `val_*`.

    A callback, and not `fit(validation_data=...)`, so that it can come after the pruning of the same epoch.
    """

    def __init__(self, dataset: keras.utils.PyDataset) -> None:
        super().__init__()
        self.dataset = dataset

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        assert logs is not None
        losses = self.model.evaluate(self.dataset, return_dict=True, verbose=0)
        logs.update({f"val_{name}": float(value) for name, value in losses.items()})


class ActivityLog(keras.callbacks.Callback):
    """At the end of an epoch: which channels are still active on some images, and the multiply-accumulates they need.

    Adds to the epoch's logs `mac_ratio`, the share 0..1 of the model's multiply-accumulates, and `pruning_loss`, what
    the loss is more than its named terms: the group-sparsity loss. The active channels go to the log, by layer.

    Args:
        images_rgb: [B, H, W, 3], 0..255, B at least 1.

    """

    def __init__(self, images_rgb: NDArray[Any]) -> None:
        super().__init__()
        self.images_rgb = images_rgb
        self.probe: ActivityProbe | None = None
        self.full_macs = 0

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        costs = layer_costs(model, *self.images_rgb.shape[1:3])
        self.probe, self.full_macs = ActivityProbe(model, costs), sum(cost.macs for cost in costs)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        assert logs is not None
        assert self.probe is not None
        found = self.probe(self.images_rgb)
        logs["mac_ratio"] = sum(item.macs for item in found) / self.full_macs
        terms = [value for name, value in logs.items() if name.endswith("_loss") and not name.startswith("val_")]
        logs["pruning_loss"] = float(logs["loss"] - np.sum(terms))
        fewer = [f"{item.name} {item.active:g} of {item.channels}" for item in found if item.active < item.channels]
        logger.info(
            "epoch %d: %.2f %% of the MACs are active; channels: %s%d layers with all",
            epoch + 1,
            100 * logs["mac_ratio"],
            "".join(f"{text}, " for text in fewer),
            len(found) - len(fewer),
        )


class Checkpoint(keras.callbacks.Callback):
    """After every epoch: the model with its optimiser, the history, and then the state that refers to them.

    Args:
        folder: the run.
        stage: the stage's name.
        more_state: what else a restart needs, a JSON-able dict.

    """

    def __init__(self, folder: RunFolder, stage: str, more_state: Callable[[], dict[str, Any]]) -> None:
        super().__init__()
        self.folder, self.stage, self.more_state = folder, stage, more_state

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        state, done = self.folder.state, epoch + 1
        values = {name: float(value) for name, value in (logs or {}).items()}
        save(self.model, self.folder.checkpoint(done))
        best = state["progress"] and state["progress"]["best"]
        if not best or values["val_loss"] < best["val_loss"]:
            best = {"epoch": done, "val_loss": values["val_loss"]}
        row = {"epoch": done, "stage": self.stage, "learning_rate": float(self.model.optimizer.learning_rate), **values}
        state["history"] = [*(entry for entry in state["history"] if entry["epoch"] < done), row]
        state["progress"] = {"stage": self.stage, "epoch": done, "best": best, **self.more_state()}
        self.folder.save_state()
        write_text(self.folder.path / "history.csv", _csv(state["history"]))


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
