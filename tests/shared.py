"""Where the reference weights, images and outputs are, for tests that need them."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("FACE_PRUNING_SHARED", ROOT.parent / "shared"))


def shared(path: str) -> Path:
    """A file or folder of the reference set; the test is skipped where the set is absent."""
    found = SHARED / path
    if not found.exists():
        pytest.skip(f"no {found}: this test needs the reference files (FACE_PRUNING_SHARED names their folder)")
    return found
