"""What a run shows while it trains: a bar with the loss terms, and TensorBoard's event files."""

import logging
import time
from pathlib import Path
from typing import Any

import keras

from lib.console import ProgressLine
from lib.training.callbacks import BatchCallback, Logs

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_LOOKS = 0.5  # reading a loss term waits for the device


class ProgressBar(BatchCallback):
    """Feeds a bar with the stage's images, done and in all, and the epoch's loss terms so far.

    Args:
        show: the bar.
        last_epoch: the stage's end, counted from 0 and not included.
        batches, batch_size: of an epoch.

    """

    def __init__(self, show: ProgressLine, last_epoch: int, batches: int, batch_size: int) -> None:
        super().__init__()
        self.show, self.last_epoch, self.batches, self.batch_size = show, last_epoch, batches, batch_size
        self._start: int | None = None  # batches done before this process began
        self._looked = 0.0

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        at = self.epoch * self.batches + self.first_batch + batch + 1
        if self._start is None:
            self._start = at - 1
        last = at == self.last_epoch * self.batches
        now = time.monotonic()
        if last or now - self._looked > _SECONDS_BETWEEN_LOOKS:
            self._looked = now
            terms = " ".join(f"{name} {float(value):.4g}" for name, value in (logs or {}).items())
            total = (self.last_epoch * self.batches - self._start) * self.batch_size
            note = f"epoch {self.epoch + 1}/{self.last_epoch}, {terms}"
            self.show((at - self._start) * self.batch_size, total, note)


class EventLog(BatchCallback):
    """Writes TensorBoard's event files: loss terms every few steps and at every epoch's end, and the learning rate.

    Needs TensorFlow for the file format only; without it nothing is written, and the log says so.

    Args:
        folder: where the files go; TensorBoard shows the runs of all folders below the one that it is given.
        every: steps between two points; 0: epochs only.
        batches: steps of an epoch.

    """

    def __init__(self, folder: str | Path, every: int, batches: int) -> None:
        super().__init__()
        self.folder, self.every, self.batches = Path(folder), every, batches
        self._writer: Any = None

    def on_train_begin(self, logs: Logs = None) -> None:
        try:
            import tensorflow as tf
        except ImportError:
            logger.info("no TensorBoard log: TensorFlow is not installed (the backend is %s)", keras.backend.backend())
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard takes files with "tfevents" in their name, in the order of their names.
        self._tf = tf
        self._writer = tf.io.TFRecordWriter(str(self.folder / f"events.out.tfevents.{time.time_ns()}"))
        self._writer.write(tf.compat.v1.Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        step = self.epoch * self.batches + self.first_batch + batch + 1
        if self._writer is not None and self.every and step % self.every == 0:
            self._write("step", step, logs)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if self._writer is not None:
            rate = float(self.model.optimizer.learning_rate)
            self._write("epoch", epoch + 1, {**(logs or {}), "learning_rate": rate})

    def on_train_end(self, logs: Logs = None) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write(self, axis: str, step: int, values: Logs) -> None:
        v1 = self._tf.compat.v1
        points = [v1.Summary.Value(tag=f"{axis}/{name}", simple_value=float(v)) for name, v in (values or {}).items()]
        event = v1.Event(wall_time=time.time(), step=step, summary=v1.Summary(value=points))
        self._writer.write(event.SerializeToString())
        self._writer.flush()
