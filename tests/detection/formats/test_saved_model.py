import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lib.detection import FaceDetector
from lib.detection.formats.saved_model import write
from lib.errors import ModelError
from tests.detectors import small_detector
from tests.matching import unmatched


def test_tensorflow_alone_can_serve_it(tmp_path: Path, rng: np.random.Generator) -> None:
    model = small_detector()
    size_bytes, nodes = write(model, tmp_path / "detector.saved_model")
    assert size_bytes > 1000 and nodes > 50
    image = rng.integers(0, 256, (50, 60, 3), np.uint8)
    np.save(tmp_path / "image.npy", image)
    script = """
import sys
import numpy as np
import tensorflow as tf
detect = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
image = np.load(sys.argv[2])
found = detect(image=tf.constant(image[None], tf.float32))
np.savez(sys.argv[3], **{name: value.numpy() for name, value in found.items()})
"""
    arguments = [tmp_path / "detector.saved_model", tmp_path / "image.npy", tmp_path / "found.npz"]
    subprocess.run([sys.executable, "-c", script, *map(str, arguments)], check=True, cwd=tmp_path)
    found = dict(np.load(tmp_path / "found.npz"))
    count = found["num_detections"][0]
    boxes = found["boxes"][0, :count][:, [1, 0, 3, 2]] * [60, 50, 60, 50]
    detections = np.column_stack([boxes, found["scores"][0, :count]])
    assert unmatched(detections, FaceDetector(model)(image, 0.05)) == []


def test_only_our_own_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "detector.saved_model"
    write(small_detector(), folder)
    write(small_detector(seed=1), folder)
    assert [path.name for path in tmp_path.iterdir()] == ["detector.saved_model"]
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match="no SavedModel of this toolkit"):
        write(small_detector(), folder)
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_folder_without_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no SavedModel, it holds no saved_model\.pb"):
        FaceDetector(tmp_path)
