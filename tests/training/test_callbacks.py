import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest

from lib.errors import TrainingError
from lib.files import read_json
from lib.models import save
from lib.pruning import Masks
from lib.runs.folder import RunFolder
from lib.runs.state import RunState
from lib.training.callbacks import (
    ActivityLog,
    Checkpoint,
    DatasetEpoch,
    LearningRate,
    PrecisionLog,
    StopOnNonFinite,
    Validation,
)
from lib.training.optimizer import LearningRates
from lib.training.position import Best, Position

MASKS = Masks("removable", {"conv1": (0, 2)})


def _with_model(callback: keras.callbacks.Callback, model: Any) -> Any:
    callback.set_model(model)
    return callback


@pytest.fixture
def linear() -> keras.Model:
    image = keras.Input((2,))
    model = keras.Model(image, keras.layers.Dense(1)(image))
    model.compile("adam", "mse", jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    return model


def test_rate_depends_on_the_step_of_the_stage_alone() -> None:
    seen = {}
    for first_step in (0, 7):  # from the start, and as after a restart
        model = SimpleNamespace(optimizer=SimpleNamespace(learning_rate=None))
        callback = _with_model(
            LearningRate(LearningRates((1.0, 0.1, 0.01), (3, 9)), first_epoch=5, steps_per_epoch=4), model
        )
        rates = []
        for step in range(first_step, 12):
            if step % 4 == 0 or step == first_step:
                callback.on_epoch_begin(5 + step // 4)
            callback.on_train_batch_begin(step % 4)
            rates.append(model.optimizer.learning_rate)
        seen[first_step] = rates
    assert seen[0] == [1.0] * 3 + [0.1] * 6 + [0.01] * 3
    assert seen[7] == seen[0][7:]


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_of_every_epoch_come_in_order_and_know_their_epoch(workers: int) -> None:
    class Data(keras.utils.PyDataset):
        epoch = -1

        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Any:
            return np.full((1, 2), 10 * self.epoch + index, np.float32), np.zeros((1, 1), np.float32)

    class Recording(keras.Model):
        def train_step(self, data: Any) -> Any:
            seen.append(float(data[0][0, 0]))
            return {"loss": 0.0}

    seen: list[float] = []
    model = Recording()
    model.compile("sgd", "mse", run_eagerly=True, jit_compile=False)
    dataset = Data(workers=workers)
    model.fit(dataset, initial_epoch=5, epochs=8, shuffle=False, verbose=0, callbacks=[DatasetEpoch(dataset)])
    assert seen == [10 * epoch + index for epoch in (5, 6, 7) for index in range(4)]


def test_rate_counts_updates_and_batches_that_were_done_before() -> None:
    model = SimpleNamespace(optimizer=SimpleNamespace(learning_rate=None))
    callback = _with_model(LearningRate(LearningRates((1.0, 0.1), (2,)), 0, steps_per_epoch=8, accumulate=2), model)
    callback.on_epoch_begin(0)
    rates = []
    for batch in range(4):
        callback.first_batch = 2
        callback.on_train_batch_begin(batch)
        rates.append(model.optimizer.learning_rate)
    assert rates == [1.0, 1.0, 0.1, 0.1]  # batches 2..5 are updates 1, 1, 2, 2


def _guard(folder: RunFolder, every: int = 0) -> StopOnNonFinite:
    guard = StopOnNonFinite(folder.last_checkpoint, lambda epoch, batch: [f"e{epoch}b{batch}.jpg"], every)
    guard.on_epoch_begin(3)
    return guard


def test_a_term_that_is_not_finite_is_named_with_images_and_checkpoint(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    bad = {"loss": float("nan"), "boxes_loss": float("inf"), "scores_loss": 1.0}
    guard = _guard(folder)
    guard.on_train_batch_end(0, {"loss": 1.0, "boxes_loss": 0.5})
    guard.on_train_batch_end(7, bad)
    with pytest.raises(TrainingError, match=r"boxes_loss is not finite in epoch 4, batch 7 .*e3b7.*none of this stage"):
        guard.on_train_batch_end(8, bad)  # read when the next step is under way
    folder.position = Position("pretrain", 2, 5)
    guard = _guard(folder)
    guard.first_batch = 5
    guard.on_train_batch_end(1, {"loss": float("nan")})
    with pytest.raises(TrainingError, match=r"loss is not finite in epoch 4, batch 6.*epoch_2_batch_5\.keras"):
        guard.on_epoch_end(3)
    with pytest.raises(TrainingError, match="not finite"):  # before a checkpoint is written
        _guard(folder, every=4).on_train_batch_end(3, bad)


def test_validation_adds_its_terms_to_the_logs(linear: keras.Model) -> None:
    logs: dict[str, Any] = {"loss": 3.0}
    Validation(_Trained(linear), SimpleNamespace()).on_epoch_end(0, logs)
    assert logs == {"loss": 3.0, "val_loss": 7.0, "val_boxes_loss": 3.0}


class _Trained:
    """What `Checkpoint` saves."""

    def __init__(self, model: keras.Model) -> None:
        self.model, self.running_metrics = model, [[1.0]]

    def save_checkpoint(self, path: Any) -> None:
        save(self.model, path)

    def validate(self, dataset: Any) -> dict[str, float]:
        return {"loss": 7.0, "boxes_loss": 3.0}


def _checkpoint(folder: RunFolder, model: keras.Model, **options: Any) -> Any:
    checkpoint = Checkpoint(folder, "pretrain", _Trained(model), masks=lambda: MASKS, **options)
    checkpoint.set_params({"steps": 6})
    return _with_model(checkpoint, model)


def test_active_channels_and_their_macs_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 1, activation="relu", use_bias=False, name="first")(image)
    model = keras.Model(image, keras.layers.Conv2D(2, 3, name="last")(x))
    model.get_layer("first").kernel.assign(np.tile(np.array([1.0, -1.0, 0.0, 2.0]), (1, 1, 3, 1)))
    callback = ActivityLog(model, np.full((2, 8, 8, 3), 9, np.uint8))
    logs: dict[str, Any] = {"loss": 3.5}
    with caplog.at_level(logging.INFO):
        callback.on_epoch_end(0, logs)
    first, last = 8 * 8 * 3 * 4, 6 * 6 * 9 * 4 * 2
    assert logs["mac_ratio"] == pytest.approx((first / 2 + last / 2) / (first + last))
    assert "50.00 % of the MACs are active; channels: first 2 of 4, 1 layers with all" in caplog.text
    model.get_layer("first").kernel.assign(np.ones((1, 1, 3, 4)))
    callback.on_epoch_end(1, logs)
    assert logs["mac_ratio"] == 1


def test_checkpoints_state_and_history(tmp_path: Path, linear: keras.Model) -> None:
    folder = RunFolder(tmp_path)
    checkpoint = _checkpoint(folder, linear)
    for epoch, val_loss in enumerate([3.0, 1.0, 2.0]):
        logs = {"loss": 5.0, "val_loss": val_loss, **({"val_ap": 0.5} if epoch == 1 else {})}
        checkpoint.on_epoch_end(epoch, logs)
    assert folder.position == Position("pretrain", 3, 0, Best(2, 1.0), MASKS)
    assert RunState.from_dict(read_json(tmp_path / "state.json")).position == folder.position
    assert sorted(path.name for path in tmp_path.glob("*.keras")) == [f"epoch_{n}.keras" for n in (1, 2, 3)]
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert lines[0] == "epoch,stage,learning_rate,loss,val_loss,val_ap"
    assert [line.split(",")[-2:] for line in lines[1:]] == [["3.0", ""], ["1.0", "0.5"], ["2.0", ""]]
    checkpoint.on_epoch_end(1, {"loss": 5.0, "val_loss": 9.0})  # an epoch done again replaces its row
    assert [row["epoch"] for row in folder.history] == [1, 2]
    assert keras.saving.load_model(folder.checkpoint(3)).optimizer is not None


def test_the_log_says_what_an_epoch_cost(
    tmp_path: Path, linear: keras.Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = _checkpoint(RunFolder(tmp_path), linear)
    monkeypatch.setattr("lib.training.callbacks.monotonic", iter([100.0, 190.0]).__next__)
    monkeypatch.setattr("lib.training.callbacks.process_time", iter([7.0, 127.0]).__next__)
    checkpoint.on_epoch_begin(4)
    with caplog.at_level(logging.INFO):
        checkpoint.on_epoch_end(4, {"loss": 0.25, "val_loss": 0.5})
    assert "epoch 5 (pretrain; 90 s, 120 s of CPU): loss 0.25, val_loss 0.5" in caplog.text


def test_checkpoints_within_an_epoch_replace_each_other(tmp_path: Path, linear: keras.Model) -> None:
    folder = RunFolder(tmp_path)
    checkpoint = _checkpoint(folder, linear, every=2)
    seen = []
    checkpoint.on_epoch_begin(0)
    for batch in range(6):
        checkpoint.on_train_batch_end(batch, {})
        seen.append(sorted(path.name for path in tmp_path.glob("*.keras")))
    two, four = ["epoch_0_batch_2.keras"], ["epoch_0_batch_4.keras"]
    assert seen == [[], two, two, four, four, four]  # none after the last batch: the epoch's end is not done
    assert folder.last_checkpoint() == tmp_path / "epoch_0_batch_4.keras"
    checkpoint.on_epoch_end(0, {"val_loss": 1.0})
    assert [path.name for path in tmp_path.glob("*.keras")] == ["epoch_1.keras"]
    assert folder.last_checkpoint() == tmp_path / "epoch_1.keras"

    checkpoint.first_batch = 3  # as after a restart: every second batch of the epoch, not of this process
    checkpoint.set_params({"steps": 3})
    checkpoint.trained.running_metrics = [[0.0]]
    folder.position = Position("pretrain", 1, 3, metrics=[[5.0]])
    checkpoint.on_epoch_begin(1)
    assert checkpoint.trained.running_metrics == [[5.0]]
    checkpoint.on_train_batch_end(0, {})
    assert folder.last_checkpoint() == tmp_path / "epoch_1_batch_4.keras"


def test_a_full_disk_is_told_and_leaves_the_last_checkpoint_whole(tmp_path: Path, linear: keras.Model) -> None:
    resource = pytest.importorskip("resource")
    folder = RunFolder(tmp_path)
    checkpoint = _checkpoint(folder, linear)
    checkpoint.on_epoch_end(0, {"val_loss": 1.0})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = folder.checkpoint(1).stat().st_size
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, hard))
        with pytest.raises(TrainingError, match=r"cannot be written .*epoch_1\.keras.*Make room"):
            checkpoint.on_epoch_end(1, {"val_loss": 0.5})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_old_checkpoints_go_but_the_best_stays(tmp_path: Path, linear: keras.Model) -> None:
    folder = RunFolder(tmp_path)
    checkpoint = _checkpoint(folder, linear, keep=2)
    for epoch, val_loss in enumerate([3.0, 1.0, 2.0, 4.0, 5.0]):
        checkpoint.on_epoch_end(epoch, {"val_loss": val_loss})
    assert sorted(path.name for path in tmp_path.glob("*.keras")) == [f"epoch_{n}.keras" for n in (2, 4, 5)]


def test_ap_every_few_epochs_of_the_stage() -> None:
    measured = PrecisionLog(lambda: 0.25, every=2, first_epoch=3)
    seen = []
    for epoch in (3, 4, 5, 6):
        logs: dict[str, Any] = {}
        measured.on_epoch_end(epoch, logs)
        seen.append(logs.get("val_ap"))
    assert seen == [None, 0.25, None, 0.25]
