from pathlib import Path

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers

from lib.detection.formats import litert
from lib.detection.formats.quantized import left_in_float
from tests.detectors import small_detector

SIZE = (64, 96)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small detector in float32 and in int8."""
    folder, rng = tmp_path_factory.mktemp("quantized"), np.random.default_rng(0)
    model = small_detector(channels=16)
    litert.write(model, folder / "float.tflite", SIZE)
    images = [rng.integers(0, 256, (*SIZE, 3), np.uint8) for _ in range(8)]
    litert.write(model, folder / "int8.tflite", SIZE, "int8", images)
    return folder / "float.tflite", folder / "int8.tflite"


def test_the_first_and_the_last_convolutions_stay_floats(files: tuple[Path, Path]) -> None:
    names = left_in_float(files[0].read_bytes())
    assert {part for name in names for part in ("conv1", "head0_boxes", "head1_scores") if part in name} == {
        "conv1",
        "head0_boxes",
        "head1_scores",
    }
    assert not [name for name in names if "conv2" in name or "conv3" in name]


def test_narrow_convolutions_and_what_joins_them_stay_floats(tmp_path: Path) -> None:
    image = keras.Input((16, 16, 3), batch_size=1)
    x = layers.Conv2D(8, 3, name="first")(image)
    wide, narrow = layers.Conv2D(5, 3, name="wide")(x), layers.Conv2D(4, 3, name="narrow")(x)
    x = layers.ReLU(name="behind")(layers.Concatenate(name="joined")([wide, narrow]))
    x = layers.Concatenate(name="twice")([layers.Conv2D(8, 3, name="middle")(x)] * 2)
    keras.Model(image, layers.Conv2D(8, 1, name="last")(x)).export(str(tmp_path / "m.tflite"), "litert", verbose=False)
    names = " ".join(left_in_float((tmp_path / "m.tflite").read_bytes()))
    found = [part for part in ("first", "wide", "narrow", "joined", "behind", "middle", "Call") if part in names]
    assert found == ["first", "narrow", "joined", "behind", "Call"]  # the last as the output is called


def test_weights_are_of_one_byte_a_channel_a_scale_and_the_ends_floats(files: tuple[Path, Path]) -> None:
    interpreter = Interpreter(str(files[1]))
    kernels = [d for d in interpreter.get_tensor_details() if d["dtype"] == np.int8 and d["shape"].size == 4]
    scales = [len(d["quantization_parameters"]["scales"]) for d in kernels if d["shape"][1] == 3]
    assert scales and set(scales) == {16}
    ends_ = [*interpreter.get_input_details(), *interpreter.get_output_details()]
    assert {d["dtype"] for d in ends_} == {np.float32}


def test_what_it_computes_is_near(files: tuple[Path, Path], rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (1, *SIZE, 3), np.uint8)
    (boxes, scores), (near_boxes, near_scores) = (litert.LiteRTNetwork(file)(image) for file in files)
    assert 0 < np.abs(scores - near_scores).max() < 0.05
    assert np.abs(boxes - near_boxes).max() < 0.1 * np.abs(boxes).max()
