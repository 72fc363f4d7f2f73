import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lib.training.logs import EventLog, ProgressBar


def test_the_bar_counts_the_stages_images_from_where_this_process_began(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib.training.logs._SECONDS_BETWEEN_LOOKS", -1)
    shown: list[tuple[int, int, str]] = []
    bar = ProgressBar(lambda done, total, note="": shown.append((done, total, note)), 5, batches=4, batch_size=8)
    bar.on_epoch_begin(3)
    bar.first_batch = 2
    for batch in range(2):
        bar.on_train_batch_end(batch, {"loss": 1.5})
    bar.first_batch = 0
    bar.on_epoch_begin(4)
    for batch in range(4):
        bar.on_train_batch_end(batch, {"loss": 0.5})
    assert [done for done, _, _ in shown] == [8, 16, 24, 32, 40, 48]
    assert {total for _, total, _ in shown} == {48}
    assert shown[0][2] == "epoch 4/5, loss 1.5"


def test_event_files_hold_the_terms(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    log: Any = EventLog(tmp_path, every=2, batches=4)
    log.set_model(SimpleNamespace(optimizer=SimpleNamespace(learning_rate=0.125)))
    log.on_train_begin()
    log.on_epoch_begin(1)
    for batch in range(4):
        log.on_train_batch_end(batch, {"loss": float(batch)})
    log.on_epoch_end(1, {"loss": 1.5, "val_loss": 2.5})
    log.on_train_end()
    (file,) = tmp_path.glob("events.out.tfevents.*")
    points = {}
    for text in _records(file):
        event = tf.compat.v1.Event.FromString(text)
        for value in event.summary.value:
            points[value.tag, event.step] = value.simple_value
    assert points == {
        ("step/loss", 6): 1.0,
        ("step/loss", 8): 3.0,
        ("epoch/loss", 2): 1.5,
        ("epoch/val_loss", 2): 2.5,
        ("epoch/learning_rate", 2): 0.125,
    }


def _records(file: Path) -> list[bytes]:
    """The records of a TFRecord file: length, its checksum, the bytes, their checksum."""
    content, place, found = file.read_bytes(), 0, []
    while place < len(content):
        (length,) = struct.unpack_from("<Q", content, place)
        found.append(content[place + 12 : place + 12 + length])
        place += length + 16
    return found
