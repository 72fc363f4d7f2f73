"""Replicas need their devices set up before TensorFlow starts: a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from lib.errors import ConfigError
from lib.training.devices import replicas, scope, sum_over_replicas
from tests.shared import ROOT

# Trains the same detector on the same batches on one device and on two, and prints how far apart they are.
TWO_DEVICES = """
import sys, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from lib.config import Config
from lib.training.devices import scope
from lib.pruning import plan
from lib.runs.wiring import make_trainer
from tests.detectors import small_detector
import keras

class Batches(keras.utils.PyDataset):
    epoch, batch_size, workers, max_queue_size = 0, 4, 1, 4
    def __len__(self):
        return 3
    def __getitem__(self, index):
        rng = np.random.default_rng([self.epoch, index])
        images = rng.uniform(0, 255, (4, 32, 32, 3)).astype(np.float32)
        boxes = rng.normal(0, 1, (4, 80, 5)).astype(np.float32)
        boxes[..., 4] = rng.random((4, 80)) < np.array([0.02, 0.2, 0.0, 0.1])[:, None]  # replicas differ in positives
        return images, {"boxes": boxes, "scores": boxes[..., 4].copy()}

config = Config()
config.DISTIL.teacher = sys.argv[1]
small_detector(seed=1).save(config.DISTIL.teacher)
config.TRAIN.optimizer, config.TRAIN.weight_decay_factor, config.TRAIN.momentum = "sgd", 0.01, 0.9
curves, weights, zeros = [], [], []
for count in (1, 2):
    with scope(count):
        trainer = make_trainer(small_detector(), config)
    masks = plan(trainer.model, 0.5)
    trainer.held.hold(masks)
    curve = []
    for step in range(6):
        trainer.train_steps(Batches(), step, 1, 1e-2)
        curve.append([float(v) for v in trainer.training_model.get_metrics_result().values()])
    validated = trainer.validate(Batches())
    curve.append([*validated.values()] + [1.0] * (len(curve[0]) - len(validated)))
    kernel = np.asarray(trainer.model.get_layer("conv1").kernel)
    zeros.append(bool(not kernel[..., list(masks.channels["conv1"])].any() and kernel.any()))
    curves.append(curve)
    weights.append(trainer.model.get_weights())
one, two = (np.array(c) for c in curves)
print("terms", one.shape[1], "curve", np.abs(one / two - 1).max())
print("weights", max(np.abs(a - b).max() for a, b in zip(*weights)), "zeros", zeros)
"""


def test_one_device_needs_nothing() -> None:
    with scope(1):
        assert replicas() == 1
    assert sum_over_replicas(3) == 3


def test_too_few_devices_are_named() -> None:
    with pytest.raises(ConfigError, match=r"TRAIN\.num_gpu=65"):
        scope(65)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="replicas are TensorFlow's")
def test_two_devices_train_like_one_with_the_whole_batch(tmp_path: Path) -> None:
    """Normalisation by the whole batch's positives, its batch statistics, decay, masks and a teacher included."""
    done = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES, str(tmp_path / "teacher.keras")],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = {line.split()[0]: line.split() for line in done.stdout.splitlines()}
    assert lines["terms"][1] == "6"
    assert float(lines["terms"][3]) < 1e-5
    assert float(lines["weights"][1]) < 1e-6
    assert lines["weights"][3:] == ["[True,", "True]"]
