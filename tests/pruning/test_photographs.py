import keras
import numpy as np
import pytest

from lib.errors import DataError
from lib.pruning.photographs import as_batch, window


def _model() -> keras.Model:
    image = keras.Input((None, None, 3))
    return keras.Model(image, keras.layers.Conv2D(2, 1)(image))


def test_a_grey_image_becomes_a_batch_of_three_channels() -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    batch = as_batch(grey, _model())
    assert batch.shape == (1, 3, 4, 3)
    np.testing.assert_array_equal(batch[0, ..., 2], grey)


def test_an_image_of_other_channels_is_refused() -> None:
    with pytest.raises(DataError, match="resize it"):
        as_batch(np.zeros((3, 4, 2), np.uint8), _model())


def test_boxes_move_with_the_window() -> None:
    image = np.zeros((1, 40, 60, 3), np.uint8)
    image[0, 20:25, 30:35] = 255
    cut, boxes = window(image, np.array([[30.0, 20, 35, 25]]), (35, 50), np.random.default_rng(0))
    assert cut.shape == (1, 35, 50, 3)
    assert boxes is not None
    x1, y1, x2, y2 = boxes[0].astype(int)
    assert (cut[0, y1:y2, x1:x2] == 255).all()
