from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from lib.detection.formats import litert
from lib.detection.formats.quantized import ends
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


def test_the_ends_reach_back_to_the_last_convolutions(files: tuple[Path, Path]) -> None:
    names = ends(files[0].read_bytes())
    assert {part for name in names for part in ("head0_boxes", "head1_scores") if part in name} == {
        "head0_boxes",
        "head1_scores",
    }
    assert not [name for name in names if "conv1" in name or "conv2" in name or "conv3" in name]


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
