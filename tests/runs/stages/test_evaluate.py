from pathlib import Path

import pytest

from lib.detection import FaceDetector
from lib.detection.formats.pb import DetectionSettings
from lib.pruning import apply_masks, plan, shrink
from lib.runs.stages.evaluate import measured
from tests.detectors import random_detector


@pytest.mark.slow
def test_frozen_graphs_stay_and_times_are_measured(tmp_path: Path) -> None:
    model = random_detector(0.03125)
    masks = plan(model, 0.4)
    apply_masks(model, masks)
    figures = measured(
        {"masked": model, "shrunk": shrink(model, masks)},
        64,
        64,
        DetectionSettings(score_threshold=0.3),
        rounds=5,
        pb_file=lambda name: tmp_path / f"{name}.pb",
    )
    assert {name: (tmp_path / f"{name}.pb").stat().st_size for name in figures} == {
        name: size for name, (size, _) in figures.items()
    }
    assert figures["shrunk"][0] < figures["masked"][0]
    assert all(milliseconds > 0 for _, milliseconds in figures.values())
    FaceDetector(tmp_path / "shrunk.pb")
