"""The training path on Keras' other backends, each in a process of its own; skipped where one is not installed."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from lib.data.scenes import SampleSet
from tests.shared import ROOT

STEPS = """
import sys
import numpy as np
from lib.config import Config
from lib.data.annotations import read_annotations
from lib.pruning import plan
from lib.runs.wiring import make_trainer
from tests.detectors import small_detector

config = Config()
config.DATA.hin = config.DATA.win = 64
config.TRAIN.batch_size, config.TRAIN.process_num = 4, 1
config.TRAIN.ema, config.TRAIN.optimizer, config.TRAIN.warmup_step = 0.9, "adam", 1
config.TRAIN.pruned_alpha = 0.1
records = read_annotations(*sys.argv[1:])[:8]
trainer = make_trainer(small_detector(), config)
train = trainer.dataset(records, augment=True)
before = trainer.validate(trainer.dataset(records, augment=False))
trainer.train_steps(train, 0, 2, 1e-2)
pull = next(metric for metric in trainer.training_model.metrics if metric.name == "pruning_loss")
assert float(pull.result()) > 0
after = trainer.validate(trainer.dataset(records, augment=False))
assert before.keys() == {"loss", "boxes_loss", "scores_loss", "pruning_loss"} and all(np.isfinite(list(after.values())))
assert after != before
masks = plan(trainer.model, 0.5)
trainer.held.hold(masks)
trainer.train_steps(train, 2, 2, 1e-2)
from keras import backend, ops
kernel = ops.convert_to_numpy(trainer.model.get_layer("conv1").kernel)
off = list(masks.channels["conv1"])
assert not kernel[..., off].any() and np.delete(kernel, off, axis=-1).all()
trainer.held.release()
trainer.sparsity.alpha = 0.0
trainer.train_steps(train, 4, 2, 1e-2)
assert float(pull.result()) == 0
assert ops.convert_to_numpy(trainer.model.get_layer("conv1").kernel).all()
assert backend.backend() != "jax" or trainer.traces == 1  # PyTorch's step is not compiled
trainer.save_checkpoint("SAVED")
trainer.restore("SAVED")
print("trained on", backend.backend())
"""


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_steps_masks_and_a_checkpoint(backend: str, samples: SampleSet, tmp_path: object) -> None:
    if find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    script = STEPS.replace("SAVED", f"{tmp_path}/c.keras")
    done = subprocess.run(
        [sys.executable, "-c", script, str(samples.train_annotations), str(samples.train_images)],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"trained on {backend}" in done.stdout
