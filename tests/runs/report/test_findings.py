from pathlib import Path

import numpy as np
import pytest

from lib.data.annotations import Record
from lib.data.images import write_rgb
from lib.data.scenes import draw_scene
from lib.detection.formats.pb import DetectionSettings
from lib.models import save
from lib.runs.report import findings
from lib.runs.report.findings import look
from tests.detectors import small_detector


class _Seer:
    """Finds the faces that it was told of."""

    def __init__(self, *_: object) -> None:
        self.left = list(_Seer.answers.pop(0))

    answers: list[list[np.ndarray]]

    def __call__(self, *_: object) -> np.ndarray:
        return self.left.pop(0)


def test_lost_faces_are_counted_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random, records, found = np.random.default_rng(0), [], []
    for index in range(3):
        image, boxes = draw_scene(random)
        write_rgb(tmp_path / f"{index}.png", image)
        records.append(Record(f"{index}.png", tmp_path / f"{index}.png", boxes, "here"))
        found.append(np.column_stack([boxes, np.full(len(boxes), 0.9)]).astype(np.float32))
    model = small_detector()
    for name in ("first", "last"):
        save(model, tmp_path / f"{name}.keras")
    kernel = next(layer for layer in model.layers if layer.weights).kernel
    kernel.assign(np.asarray(kernel) * (np.arange(kernel.shape[-1]) > 0))
    save(model, tmp_path / "last.keras")
    _Seer.answers = [found, [found[0][1:], *found[1:]]]
    monkeypatch.setattr(findings, "FaceDetector", _Seer)
    seen = look(tmp_path / "first.keras", tmp_path / "last.keras", records, DetectionSettings(), (64, 64))
    assert (seen.found, seen.lost) == (sum(len(boxes) for boxes in found), 1)
    assert seen.names == ("first", "last")
    assert seen.curves["first"][-1] == (1.0, 1.0)
    assert seen.curves["last"][-1][0] < 1
    assert len(seen.pictures) == 3
    assert "1 lost" in seen.pictures[0][0]
    _, before, after = seen.channels[0]
    assert after == before - 1
    assert all(before == after for _, before, after in seen.macs)


def test_a_page_stays_under_three_megabytes(rng: np.random.Generator) -> None:
    noise = rng.integers(0, 256, (findings._PANEL_PX, 2 * findings._PANEL_PX + 6, 3)).astype(np.uint8)
    assert findings.PICTURES * len(findings._jpeg(noise)) * 4 / 3 < 2.9e6
