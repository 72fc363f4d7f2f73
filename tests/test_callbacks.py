import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest

from lib.callbacks import ActivityLog, Checkpoint, DatasetEpoch, PiecewiseRate, StopOnNonFinite, Validation
from lib.errors import TrainingError
from lib.files import read_json
from lib.runs import RunFolder


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
        callback = _with_model(PiecewiseRate((1.0, 0.1, 0.01), (3, 9), first_epoch=5, steps_per_epoch=4), model)
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


def test_a_term_that_is_not_finite_is_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    guard = StopOnNonFinite(folder)
    guard.on_epoch_begin(3)
    guard.on_train_batch_end(0, {"loss": 1.0, "boxes_loss": 0.5})
    with pytest.raises(TrainingError, match=r"boxes_loss is not finite in epoch 4, batch 7 .*none of this stage"):
        guard.on_train_batch_end(7, {"loss": float("nan"), "boxes_loss": float("inf"), "scores_loss": 1.0})
    folder.state["progress"] = {"epoch": 2}
    with pytest.raises(TrainingError, match=r"loss is not finite.*epoch_2\.keras"):
        guard.on_train_batch_end(7, {"loss": float("nan")})


def test_validation_adds_its_terms_to_the_logs(linear: keras.Model) -> None:
    class Data(keras.utils.PyDataset):
        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> Any:
            return np.ones((4, 2), np.float32), np.ones((4, 1), np.float32)

    logs: dict[str, Any] = {"loss": 3.0}
    _with_model(Validation(Data()), linear).on_epoch_end(0, logs)
    assert logs["val_loss"] == pytest.approx(float(((np.asarray(linear(np.ones((1, 2)))) - 1) ** 2).item()), rel=1e-5)


def test_active_channels_and_their_macs_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 1, activation="relu", use_bias=False, name="first")(image)
    model = keras.Model(image, keras.layers.Conv2D(2, 3, name="last")(x))
    model.get_layer("first").kernel.assign(np.tile(np.array([1.0, -1.0, 0.0, 2.0]), (1, 1, 3, 1)))
    callback = _with_model(ActivityLog(np.full((2, 8, 8, 3), 9, np.uint8)), model)
    logs: dict[str, Any] = {"loss": 3.5, "a_loss": 1.0, "b_loss": 2.0, "val_a_loss": 7.0}
    with caplog.at_level(logging.INFO):
        callback.on_epoch_end(0, logs)
    first, last = 8 * 8 * 3 * 4, 6 * 6 * 9 * 4 * 2
    assert logs["mac_ratio"] == pytest.approx((first / 2 + last / 2) / (first + last))
    assert logs["pruning_loss"] == pytest.approx(0.5)
    assert "50.00 % of the MACs are active; channels: first 2 of 4, 1 layers with all" in caplog.text
    model.get_layer("first").kernel.assign(np.ones((1, 1, 3, 4)))
    callback.on_epoch_end(1, logs)
    assert logs["mac_ratio"] == 1


def test_checkpoints_state_and_history(tmp_path: Path, linear: keras.Model) -> None:
    folder = RunFolder(tmp_path)
    checkpoint = _with_model(Checkpoint(folder, "pretrain", lambda: {"extra": 1}), linear)
    for epoch, val_loss in enumerate([3.0, 1.0, 2.0]):
        checkpoint.on_epoch_end(epoch, {"loss": 5.0, "val_loss": val_loss})
    state = read_json(tmp_path / "state.json")
    assert state["progress"] == {"stage": "pretrain", "epoch": 3, "best": {"epoch": 2, "val_loss": 1.0}, "extra": 1}
    assert sorted(path.name for path in tmp_path.glob("*.keras")) == [f"epoch_{n}.keras" for n in (1, 2, 3)]
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert lines[0] == "epoch,stage,learning_rate,loss,val_loss"
    assert [line.split(",")[-1] for line in lines[1:]] == ["3.0", "1.0", "2.0"]
    checkpoint.on_epoch_end(1, {"loss": 5.0, "val_loss": 9.0})  # an epoch done again replaces its row
    assert [row["epoch"] for row in folder.state["history"]] == [1, 2]
    assert keras.saving.load_model(folder.checkpoint(3)).optimizer is not None
