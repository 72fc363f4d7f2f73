"""What happens around Keras' training loop: rates, guards, validation, checkpoints."""

import csv
import io
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from time import monotonic, process_time
from typing import Any, Protocol

import keras
from numpy.typing import NDArray

from lib.errors import TrainingError
from lib.files import write_text
from lib.pruning import Masks
from lib.pruning.activity import ActivityProbe
from lib.pruning.cost import layer_costs
from lib.training.optimizer import LearningRates
from lib.training.position import Best, Position

logger = logging.getLogger(__name__)
Logs = dict[str, Any] | None


class Trained(Protocol):
    """What the callbacks need of `lib.training.trainer.Trainer`."""

    running_metrics: list[list[float]]

    def save_checkpoint(self, path: Any) -> None: ...
    def validate(self, dataset: keras.utils.PyDataset) -> dict[str, float]: ...


class Keeper(Protocol):
    """What the callbacks need of the place where a run is kept, `lib.runs.folder.RunFolder`.

    Attributes:
        path: the folder.
        position: where the present stage stands; None at its start.
        history: a row an epoch.
        writes: whether this process does; of several one alone.

    """

    path: Path
    writes: bool
    position: Position | None
    history: list[dict[str, Any]]

    def checkpoint(self, epoch: int, batch: int = 0) -> Path: ...
    def last_checkpoint(self) -> Path | None: ...
    def save_state(self) -> None: ...
    def writing(self) -> AbstractContextManager[None]: ...


class BatchCallback(keras.callbacks.Callback):
    """Knows the epoch, and the batch in it also where an epoch is resumed in its middle.

    Attributes:
        epoch: the current one, counted from 0.
        first_batch: the batch that Keras counts as 0; `lib.training.trainer.Trainer.fit` sets it.

    """

    epoch = 0
    first_batch = 0

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self.epoch = epoch


class LearningRate(BatchCallback):
    """Sets the rate of every step; it depends on the step of the stage alone, so a restart finds it again.

    Args:
        rates: rate by update.
        first_epoch: the stage's first epoch, counted from 0.
        steps_per_epoch: batches of an epoch.
        accumulate: batches for one update.

    """

    def __init__(self, rates: LearningRates, first_epoch: int, steps_per_epoch: int, accumulate: int = 1) -> None:
        super().__init__()
        self.rates, self.first_epoch, self.steps_per_epoch = rates, first_epoch, steps_per_epoch
        self.accumulate = accumulate
        self.current: float | None = None

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        step = (self.epoch - self.first_epoch) * self.steps_per_epoch + self.first_batch + batch
        rate = self.rates.at(step // self.accumulate)
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


class StopOnNonFinite(BatchCallback):
    """Stops the run when a loss term is not finite, and names the term, the batch's images and the last checkpoint.

    A step's terms are read when the next one has been started, so that a fast device need not wait, and at the latest
    before a checkpoint is written: put this before `Checkpoint`.

    Args:
        last_checkpoint: tells where the present stage would go on from.
        images_of: (epoch, batch) -> the paths of the batch's images.
        every: steps between two checkpoints in an epoch; 0: none.

    """

    def __init__(
        self,
        last_checkpoint: Callable[[], Path | None],
        images_of: Callable[[int, int], Sequence[str]],
        every: int = 0,
    ) -> None:
        super().__init__()
        self.last_checkpoint, self.images_of, self.every = last_checkpoint, images_of, every
        self._unread: tuple[int, Any] | None = None

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        self._read()
        self._unread = (self.first_batch + batch, logs or {})
        if self.every and (self.first_batch + batch + 1) % self.every == 0:
            self._read()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self._read()

    def _read(self) -> None:
        if self._unread is None:
            return
        batch, logs = self._unread
        self._unread = None
        terms = {name: float(value) for name, value in logs.items()}
        # The sum is as bad as its terms: name a term if there is one to name.
        bad = [name for name, value in terms.items() if not math.isfinite(value)]
        bad.sort(key="loss".__eq__)
        if bad:
            images = ", ".join(self.images_of(self.epoch, batch))
            raise TrainingError(
                f"{bad[0]} is not finite in epoch {self.epoch + 1}, batch {batch} "
                f"({', '.join(f'{name} {value:g}' for name, value in terms.items())}); images: {images}; "
                f"last good checkpoint: {self.last_checkpoint() or 'none of this stage'}; "
                "a lower learning rate, TRAIN.clip_norm or TRAIN.warmup_step usually helps"
            )


class StopWithoutFaces(keras.callbacks.Callback):
    """Stops the run after an epoch in which no anchor had a face: the box loss is exactly 0, and nothing is learnt.

    Put this before `Checkpoint`.
    """

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        terms = [float(value) for name, value in (logs or {}).items() if name.endswith("boxes_loss")]
        if terms and not any(terms):
            raise TrainingError(
                f"epoch {epoch + 1} had faces in its annotations, but none that an anchor of the network could find; "
                "look at them with TRAIN.vis = True: are the boxes in pixels, is DATA.hin large enough, and is "
                "DATA.cover_small_face below the faces' sizes?"
            )


class Validation(keras.callbacks.Callback):
    """Loss terms on the validation images at the end of an epoch, added to the epoch's logs as `val_*`.

    A callback, and not `fit(validation_data=...)`, so that it can come after the pruning of the same epoch.
    """

    def __init__(self, trained: Trained, dataset: keras.utils.PyDataset) -> None:
        super().__init__()
        self.trained, self.dataset = trained, dataset

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        assert logs is not None
        logs.update({f"val_{name}": value for name, value in self.trained.validate(self.dataset).items()})


class ActivityLog(keras.callbacks.Callback):
    """At the end of an epoch: which channels are still active on some images, and the multiply-accumulates they need.

    Adds to the epoch's logs `mac_ratio`, the share 0..1 of the model's multiply-accumulates. The active channels go to
    the log, by layer.

    Args:
        detector: the model.
        images_rgb: [B, H, W, 3], 0..255, B at least 1.

    """

    def __init__(self, detector: keras.Model, images_rgb: NDArray[Any]) -> None:
        super().__init__()
        self.images_rgb = images_rgb
        costs = layer_costs(detector, *images_rgb.shape[1:3])
        self.probe, self.full_macs = ActivityProbe(detector, costs), sum(cost.macs for cost in costs)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        assert logs is not None
        found = self.probe(self.images_rgb)
        logs["mac_ratio"] = sum(item.macs for item in found) / self.full_macs
        fewer = [f"{item.name} {item.active:g} of {item.channels}" for item in found if item.active < item.channels]
        logger.info(
            "epoch %d: %.2f %% of the MACs are active; channels: %s%d layers with all",
            epoch + 1,
            100 * logs["mac_ratio"],
            "".join(f"{text}, " for text in fewer),
            len(found) - len(fewer),
        )


class PrecisionLog(keras.callbacks.Callback):
    """Every `every` epochs of the stage, the present detector's average precision, in the epoch's logs as `val_ap`.

    Args:
        measure: measures it.
        every: epochs between two.
        first_epoch: the stage's first epoch.

    """

    def __init__(self, measure: Callable[[], float], every: int, first_epoch: int) -> None:
        super().__init__()
        self.measure, self.every, self.first_epoch = measure, every, first_epoch

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if logs is not None and (epoch + 1 - self.first_epoch) % self.every == 0:
            logs["val_ap"] = self.measure()


class Checkpoint(BatchCallback):
    """After every epoch and every few steps: detector and optimiser, and then the state that refers to them.

    A state refers to whole files only, and files that no state needs are removed after it is written; so a run that is
    killed anywhere goes on from the state before. The log gets a line an epoch, with its cost in this process.

    Args:
        keeper: the run's folder.
        stage: the stage's name.
        trained: what is saved.
        masks: the latest masks of soft pruning; None where there are none.
        every: steps between two checkpoints in an epoch; 0: none.
        keep: so many of the latest epochs' checkpoints are kept, and the stage's best; 0: all.

    """

    def __init__(
        self,
        keeper: Keeper,
        stage: str,
        trained: Trained,
        *,
        masks: Callable[[], Masks | None] = lambda: None,
        every: int = 0,
        keep: int = 0,
    ) -> None:
        super().__init__()
        self.keeper, self.stage, self.trained, self.masks = keeper, stage, trained, masks
        self.every, self.keep = every, keep
        self._began = 0.0, 0.0

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        super().on_epoch_begin(epoch)
        self._began = monotonic(), process_time()
        if self.first_batch:  # Keras has just set the means to zero
            assert self.keeper.position is not None
            assert self.keeper.position.metrics is not None
            self.trained.running_metrics = self.keeper.position.metrics

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        done = self.first_batch + batch + 1
        # Not after the last batch: a restart there would leave out what belongs to the epoch's end.
        if self.every and done % self.every == 0 and batch + 1 < self.params["steps"]:
            self._save(Position(self.stage, self.epoch, done, self._best(), metrics=self.trained.running_metrics))

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        keeper, done, best = self.keeper, epoch + 1, self._best()
        values = {name: float(value) for name, value in (logs or {}).items()}
        if not best or values["val_loss"] < best.val_loss:
            best = Best(done, values["val_loss"])
        row = {"epoch": done, "stage": self.stage, "learning_rate": float(self.model.optimizer.learning_rate), **values}
        keeper.history = [*(entry for entry in keeper.history if entry["epoch"] < done), row]
        self._save(Position(self.stage, done, 0, best))
        with keeper.writing():
            if keeper.writes:
                write_text(keeper.path / "history.csv", csv_text(keeper.history))
        terms = ", ".join(f"{k} {v:.4g}" for k, v in values.items())
        seconds, of_cpu = monotonic() - self._began[0], process_time() - self._began[1]
        logger.info("epoch %d (%s; %.0f s, %.0f s of CPU): %s", done, self.stage, seconds, of_cpu, terms)

    def _best(self) -> Best | None:
        return self.keeper.position.best if self.keeper.position else None

    def _save(self, position: Position) -> None:
        before, best = self.keeper.position, position.best
        with self.keeper.writing():
            self.trained.save_checkpoint(self.keeper.checkpoint(position.epoch, position.batch))
            self.keeper.position = replace(position, masks=self.masks())
            self.keeper.save_state()
        if not self.keeper.writes:
            return
        if before and before.batch:
            self.keeper.checkpoint(before.epoch, before.batch).unlink(missing_ok=True)
        if self.keep and not position.batch:
            for old in range(1, position.epoch - self.keep + 1):
                if not best or old != best.epoch:
                    self.keeper.checkpoint(old).unlink(missing_ok=True)


def csv_text(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as CSV with a header of all their names; what a row lacks is empty."""
    text = io.StringIO()
    names = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, fieldnames=list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
