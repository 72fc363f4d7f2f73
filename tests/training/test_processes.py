"""Several processes that train together: JAX's, each started here; skipped where JAX is not installed."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
import pytest

from lib.data.scenes import SampleSet
from lib.errors import ConfigError, TrainingError
from lib.models import load
from lib.training import processes
from lib.training.processes import Processes, join, meet, others_there, present, share_of
from tests.shared import ROOT

# Trains 30 steps on the same batches, however many processes share them; the first writes losses and weights.
THIRTY_STEPS = """
import json, sys
from lib.training.processes import join, present
join()
import keras, numpy as np
from lib.config import Config
from lib.data.annotations import read_annotations
from lib.runs.wiring import make_trainer
from lib.training.devices import scope
from tests.detectors import small_detector

annotations, images, out = sys.argv[1:]
config = Config()
config.DATA.hin = config.DATA.win = 64
config.TRAIN.batch_size, config.TRAIN.process_num, config.TRAIN.ema = 4, 1, 0.9
records = (read_annotations(annotations, images) * 2)[:23]  # five batches of 4, and 3 images more to validate on
with scope(1):
    trainer = make_trainer(small_detector(), config)
losses = []
class Log(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 2:
            self.model.optimizer.learning_rate = 1e-3 / (1 + len(losses))
        losses.append({name: float(value) for name, value in logs.items()})
trainer.fit(trainer.dataset(records, augment=True), 6, [Log()])
losses.append(trainer.validate(trainer.dataset(records, augment=False)))
trainer.save(f"{out}.keras")
if present().first:
    np.savez(f"{out}.npz", *trainer.model.get_weights())
    with open(f"{out}.json", "w") as file:
        json.dump(losses, file)
"""

# Soft pruning and the loss that pulls at groups, in place of five of the epochs.
SOFT = """
config.TRAIN.stages, config.PRETRAIN.epoch = ("pretrain", "soft_prune", "finetune", "shrink"), 1
config.SOFT_PRUNE.epoch, config.FINETUNE.epoch = 2, 1
config.PRUNE.rate, config.PRUNE.epoch_prune, config.TRAIN.pruned_alpha = 0.5, 1, 0.01
"""

# A run of six epochs, as pruned_train.py makes it, of a detector that is small.
RUN = """
import sys
import lib.runs.wiring
from lib.config import Config
from lib.console import friendly_errors
from lib.runs.job import run
from tests.detectors import small_detector

annotations, images, folder = sys.argv[1:]
lib.runs.wiring.build = lambda *_, **__: small_detector()
config = Config()
config.DATA.train_txt_path, config.DATA.train_image_dir = annotations, images
config.DATA.val_txt_path, config.DATA.val_image_dir = annotations, images
config.DATA.hin = config.DATA.win = config.COST.hin = config.COST.win = 64
config.TRAIN.batch_size, config.TRAIN.process_num, config.TRAIN.ema = 4, 1, 0.9
config.TRAIN.distribution, config.TRAIN.stages, config.PRETRAIN.epoch = "data_parallel", ("pretrain",), 6
config.MODEL.model_path = folder
MORE
with friendly_errors():
    run(config, verbose=0)
"""


def _environment(count: int, index: int, address: str) -> Mapping[str, str]:
    return {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "KERAS_DISTRIBUTION_JOB_ADDRESSES": address,
        "KERAS_DISTRIBUTION_NUM_PROCESSES": str(count),
        "KERAS_DISTRIBUTION_PROCESS_ID": str(index),
    }


def start(count: int, arguments: list[str]) -> list[subprocess.Popen[str]]:
    """So many processes of one command that know of each other by their environment."""
    if find_spec("jax") is None:
        pytest.skip("jax is not installed")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=_environment(count, index, address),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(count)
    ]


def command(script: str, samples: SampleSet, out: Path, more: str = "") -> list[str]:
    """Arguments of Python that run a script on the sample set."""
    return ["-c", script.replace("MORE", more), str(samples.train_annotations), str(samples.train_images), str(out)]


def finish(running: list[subprocess.Popen[str]], seconds: float = 240) -> list[str]:
    try:
        texts = [process.communicate(timeout=seconds)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0] * len(running), [text[-2000:] for text in texts]
    return texts


@pytest.fixture(scope="module")
def alone(samples: SampleSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process gets in 30 steps: `.json` and `.npz`."""
    out = tmp_path_factory.mktemp("alone") / "1"
    finish(start(1, command(THIRTY_STEPS, samples, out)))
    return out


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_train_as_one_does(count: int, alone: Path, samples: SampleSet, tmp_path: Path) -> None:
    out = tmp_path / "several"
    finish(start(count, command(THIRTY_STEPS, samples, out)))
    one, several = (json.loads(path.with_suffix(".json").read_text()) for path in (alone, out))
    assert len(one) == 31
    for mine, theirs in zip(one, several, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)
    with np.load(alone.with_suffix(".npz")) as mine, np.load(out.with_suffix(".npz")) as theirs:
        for name in mine:
            assert np.abs(mine[name] - theirs[name]).max() <= 1e-5 * np.abs(mine[name]).max(), name


@pytest.mark.slow
def test_a_run_whose_second_process_was_killed_ends_as_if_it_had_not_been(samples: SampleSet, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(2, command(RUN, samples, whole)))
    first, second = start(2, command(RUN, samples, killed))
    try:
        for _ in range(1200):
            if (killed / "epoch_2.keras").exists() or first.poll() is not None:
                break
            time.sleep(0.1)
        second.kill()
        said = first.communicate(timeout=60)[0]
    finally:
        first.kill()
        second.kill()
    second.communicate()
    assert first.returncode != 0
    assert "another process of this training has ended" in said or "JAX distributed service detected fatal" in said
    assert not (killed / "optimized" / "pretrain.keras").exists()  # it was killed before its end
    finish(start(2, command(RUN, samples, killed)))
    ours, theirs = (load(folder / "optimized" / "pretrain.keras") for folder in (whole, killed))
    for mine, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_two_processes_prune_softly_as_one_does(samples: SampleSet, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    finish(start(1, command(RUN, samples, one, SOFT)))
    finish(start(2, command(RUN, samples, two, SOFT)))
    assert (one / "masks.json").read_text() == (two / "masks.json").read_text()
    for name in ("soft_prune", "shrunk"):
        ours, theirs = (load(folder / "optimized" / f"{name}.keras") for folder in (one, two))
        for mine, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
            assert np.abs(mine - other).max() <= 1e-4 * np.abs(mine).max()


def test_one_process_is_alone() -> None:
    assert present() == Processes(1, 0)
    assert present().first
    assert share_of(5) == (0, 5)
    meet("nobody else comes")


def test_rows_are_shared_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    class Distribution:
        num_model_replicas = 4

    monkeypatch.setattr(processes, "_present", processes._Present(Processes(2, 1), Distribution()))
    assert share_of(8) == (4, 8)
    with pytest.raises(ConfigError, match=r"6 images cannot be shared by 4 devices; set TRAIN.batch_size"):
        share_of(6)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="on JAX it is no error")
def test_other_backends_are_refused() -> None:
    with pytest.raises(ConfigError, match="needs KERAS_BACKEND=jax, this is"):
        join("127.0.0.1:1", 2, 0)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"KERAS_DISTRIBUTION_NUM_PROCESSES": "two"}, "NUM_PROCESSES = 'two': expected a number"),
        ({"KERAS_DISTRIBUTION_NUM_PROCESSES": "2"}, "2 processes and the index -1 do not go together"),
        (
            {"KERAS_DISTRIBUTION_NUM_PROCESSES": "2", "KERAS_DISTRIBUTION_PROCESS_ID": "2"},
            "2 processes and the index 2",
        ),
    ],
)
def test_what_does_not_go_together_is_named(
    environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    for name, value in {"KERAS_DISTRIBUTION_JOB_ADDRESSES": "127.0.0.1:1", **environment}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        join()


def test_the_end_of_another_process_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="Gloo"), others_there():  # alone, it is something else
        raise RuntimeError("Gloo all-reduce failed: Connection closed by peer")
    monkeypatch.setattr(processes, "_present", processes._Present(Processes(2, 1), None))
    with (
        pytest.raises(TrainingError, match=r"process 1 of 2: another process .* goes on from the last"),
        others_there(),
    ):
        raise RuntimeError("Gloo all-reduce failed: Connection closed by peer\nmore")
    with pytest.raises(RuntimeError, match="other"), others_there():
        raise RuntimeError("some other thing")
