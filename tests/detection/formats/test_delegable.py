from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from lib.detection.formats.delegable import delegable
from lib.detection.lint import fallbacks


@pytest.mark.parametrize("size", [2, (3, 1), (1, 2)])
def test_upsampling_gives_the_same_bits(size: int | tuple[int, int], rng: np.random.Generator) -> None:
    image = keras.Input((5, 7, 3), batch_size=2)
    network = keras.Model(image, layers.UpSampling2D(size, interpolation="nearest")(layers.Conv2D(4, 3)(image)))
    pixels = rng.uniform(-1, 1, (2, 5, 7, 3)).astype(np.float32)
    np.testing.assert_array_equal(delegable(network)(pixels), network(pixels))


def test_other_interpolations_and_unknown_sizes_stay(rng: np.random.Generator) -> None:
    image = keras.Input((None, None, 3))
    near = layers.UpSampling2D(2, interpolation="nearest")(image)
    network = keras.Model(image, layers.UpSampling2D(2, interpolation="bilinear")(near))
    pixels = rng.uniform(-1, 1, (1, 5, 7, 3)).astype(np.float32)
    np.testing.assert_array_equal(delegable(network)(pixels), network(pixels))


def test_what_holds_arrays_or_learnt_by_adapting_is_the_same(rng: np.random.Generator) -> None:
    adapted = layers.Normalization()
    adapted.adapt(rng.normal(3, 2, (50, 4, 4, 3)).astype(np.float32))
    image = keras.Input((4, 4, 3), batch_size=1)
    inner = keras.Model(image, layers.UpSampling2D(2, interpolation="nearest")(adapted(image)))
    network = keras.Model(image, keras.ops.add(inner(image), rng.normal(0, 1, (8, 8, 3)).astype(np.float32)))
    pixels = rng.uniform(-1, 1, (1, 4, 4, 3)).astype(np.float32)
    np.testing.assert_array_equal(delegable(network)(pixels), network(pixels))


def test_nothing_of_an_upsampling_is_left_to_plain_loops(tmp_path: Path) -> None:
    image = keras.Input((8, 8, 3), batch_size=1)
    network = keras.Model(image, layers.UpSampling2D(2, interpolation="nearest")(image))
    signature = [keras.InputSpec(shape=(1, 8, 8, 3), dtype="float32")]
    for name, model in (("as it is", network), ("delegable", delegable(network))):
        model.export(tmp_path / f"{name}.tflite", "litert", False, signature)
    assert any("TILE" in note for note in fallbacks((tmp_path / "as it is.tflite").read_bytes()))
    assert not fallbacks((tmp_path / "delegable.tflite").read_bytes())
