from pathlib import Path

import numpy as np
import pytest

from lib.detection import FaceDetector
from lib.detection.export import export
from lib.detection.formats import FILES
from lib.errors import ConfigError, ModelError
from tests.detectors import small_detector

SIZE = (64, 96)


def test_every_file_has_its_name_and_size_and_can_be_read(tmp_path: Path, rng: np.random.Generator) -> None:
    images = [rng.integers(0, 256, (*SIZE, 3), np.uint8) for _ in range(4)]
    written = export(small_detector(channels=8), tmp_path, tuple(FILES), ("float32", "float16", "int8"), SIZE, images)
    assert [one.name for one in written] == [
        "keras",
        "pb",
        "saved_model",
        "litert",
        "litert float16",
        "litert int8",
        "onnx",
    ]
    names = {*FILES.values(), "detector_float16.tflite", "detector_int8.tflite"}
    assert {path.name for path in tmp_path.iterdir()} == {one.path.name for one in written} == names
    for one in written:
        assert one.size_bytes > 1000
        assert FaceDetector(one.path)(images[0], 0.0).shape[1] == 5


@pytest.mark.parametrize(
    ("formats", "precisions", "message"),
    [
        (
            ("keras", "tflite"),
            ("float32",),
            "no format is called 'tflite'; known: keras, pb, saved_model, litert, onnx",
        ),
        (("litert",), ("int16",), "no precision is called 'int16'.*10 to 20 times slower"),
    ],
)
def test_unknown_names_are_refused(
    tmp_path: Path, formats: tuple[str, ...], precisions: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        export(small_detector(), tmp_path, formats, precisions)
    assert not list(tmp_path.iterdir())


def test_int8_wants_a_size_and_images_of_it(tmp_path: Path) -> None:
    for size, images in (
        (None, [np.zeros((64, 96, 3), np.uint8)]),
        (SIZE, []),
        (SIZE, [np.zeros((9, 9, 3), np.uint8)]),
    ):
        with pytest.raises(ModelError, match="int8 needs a fixed size, and images"):
            export(small_detector(), tmp_path, ("litert",), ("int8",), size, images)
