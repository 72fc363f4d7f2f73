import json
from pathlib import Path

import numpy as np

from lib.data.annotations import read_annotations
from lib.data.images import read_rgb
from lib.data.scenes import SampleSet
from lib.detection.export import Written, export
from lib.evaluation.exports import agrees, report
from lib.models import save
from tests.detectors import small_detector


def test_a_row_a_file_beside_the_original(tmp_path: Path, samples: SampleSet) -> None:
    records = read_annotations(samples.val_annotations, samples.val_images)[:3]
    model = small_detector(channels=8)
    save(model, tmp_path / "m.keras")
    written = export(model, tmp_path / "out", ("keras", "onnx"), size_px=(96, 128))
    images = [read_rgb(record.image) for record in records]
    rows = report(tmp_path / "m.keras", written, (96, 128), images, records, rounds=2)
    assert json.loads(json.dumps(rows)) == rows
    assert [row["format"] for row in rows] == ["original", "keras", "onnx"]
    assert rows[0]["ms_ratio"] == 1
    assert all(row["changed"] == 0 and row["largest_score_difference"] < 1e-3 for row in rows)
    assert all(row["detections"] > 0 and row["ms"] > 0 and 0 <= row["ap"] <= 1 for row in rows)
    assert agrees(rows)


def test_another_model_does_not_agree(tmp_path: Path, rng: np.random.Generator) -> None:
    for name, seed in (("m", 0), ("other", 1)):
        save(small_detector(seed=seed), tmp_path / f"{name}.keras")
    other = tmp_path / "other.keras"
    image = rng.integers(0, 256, (64, 64, 3), np.uint8)
    rows = report(tmp_path / "m.keras", [Written("keras", "float32", other, 1)], (64, 64), [image], rounds=1)
    assert rows[1]["changed"] > 0
    assert rows[1]["ap"] is None
    assert not agrees(rows)
