"""Other languages' programs, and a network's outputs for them to decode."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from lib.arrays import FloatArray
from lib.detection.candidates import from_scores
from lib.detection.description import Description
from lib.geometry.anchors import AnchorSpec, anchor_grid
from lib.geometry.suppression import in_whole_px, nms

SIZE = (101, 150)
THRESHOLD = 0.5
ACROSS, DOWN = 1.25, 0.75  # px of the picture to a px of the network's image
SPECS = [
    AnchorSpec(place=0.25),
    AnchorSpec(ratio=1.5, scales=(0.5, 1.0), code="corners"),
    AnchorSpec(
        (8, 16, 32), (8, 16, 32), 1.0, code="plain", place=0.0, scoring="geometric mean", landmarks=5, whole_px=True
    ),
]


def program(name: str) -> str:
    """Where a program is; skips the test where it is missing."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not on this machine")
    return found


def require_network(npm_said: str) -> None:
    """Skips the test where npm reached no registry."""
    if any(code in npm_said for code in ("EAI_AGAIN", "ECONNREFUSED", "ENOTFOUND", "ETIMEDOUT")):
        pytest.skip("npm reaches no registry from here")


def random_outputs(
    anchors: AnchorSpec, file: Path, random: np.random.Generator
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Writes a file that describes a detector; returns offsets, scores and the picture's faces [n, 5]."""
    count = len(anchor_grid(anchors, *SIZE))
    boxes = random.normal(0, 2, (count, 4)).astype(np.float32)
    scores = random.uniform(0, 1, count).astype(np.float32)
    file.write_bytes(b"\xff{" + Description(anchors, SIZE, "float32", "0").to_json().encode() + b"\xff}")
    candidates, passing = from_scores(boxes, scores, anchors, SIZE, THRESHOLD)
    candidates = candidates * np.tile(np.array([SIZE[1] * ACROSS, SIZE[0] * DOWN], np.float32), 2)
    kept = nms(in_whole_px(candidates) if anchors.whole_px else candidates, passing, 0.3, 750)
    assert len(kept) > 50
    return boxes, scores, np.column_stack([candidates[kept], passing[kept]])
