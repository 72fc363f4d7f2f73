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


def test_nothing_of_an_upsampling_is_left_to_plain_loops(tmp_path_factory: pytest.TempPathFactory) -> None:
    image = keras.Input((8, 8, 3), batch_size=1)
    network = keras.Model(image, layers.UpSampling2D(2, interpolation="nearest")(image))
    folder = tmp_path_factory.mktemp("delegable")
    for name, model in (("as it is", network), ("delegable", delegable(network))):
        model.export(folder / f"{name}.tflite", "litert", False, [keras.InputSpec(shape=(1, 8, 8, 3), dtype="float32")])
    assert any("TILE" in note for note in fallbacks((folder / "as it is.tflite").read_bytes()))
    assert not fallbacks((folder / "delegable.tflite").read_bytes())
