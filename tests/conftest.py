import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Tests run side by side, a core each; and with several threads TensorFlow's sums may differ in the last bit under load,
# where tests compare to the last bit.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

import keras
import numpy as np
import pytest

from lib.arrays import FloatArray
from lib.data.scenes import SampleSet, ensure_samples
from lib.models import build


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    keras.utils.set_random_seed(0)
    yield


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> SampleSet:
    """A small built-in sample set: 16 training and 6 validation scenes."""
    return ensure_samples(tmp_path_factory.mktemp("data") / "samples", seed=1, train_scenes=16, val_scenes=6)


@pytest.fixture
def tiny_model() -> keras.Model:
    """EResFD of 4 channels."""
    return build("eresfd", width_mult=4 / 256)


@pytest.fixture
def lively_model(tiny_model: keras.Model, rng: np.random.Generator) -> keras.Model:
    """EResFD of 4 channels whose weights, biases and statistics are all random: nothing in it is zero or one."""
    for weight in tiny_model.weights:
        noise = rng.normal(0, 0.1, weight.shape)
        weight.assign(
            np.abs(np.asarray(weight) + noise) + 0.1 if "variance" in weight.path else np.asarray(weight) + noise
        )
    # As trained statistics do, these bring pixels down to numbers around one; scores are then no 0s and 1s.
    tiny_model.get_layer("conv1_bn").moving_variance.assign(np.full(2, 3000.0))
    return tiny_model


def random_boxes(rng: np.random.Generator, count: int, size: float = 100.0) -> FloatArray:
    """[count, 4] xyxy within 0..size, sides from 2 % to 40 % of it."""
    corner = rng.uniform(0, 0.6 * size, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(0.02 * size, 0.4 * size, (count, 2))], axis=1).astype(
        np.float32
    )


@pytest.fixture
def jpeg(samples: SampleSet) -> Path:
    """One readable JPEG."""
    return next(samples.train_images.rglob("*.jpg"))
