"""Data for tests that is no part of the project; tests that need it skip where it is absent."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("FACE_PRUNING_SHARED", ROOT.parent / "shared"))


def shared(path: str) -> Path:
    """A file or folder of the shared data; skips the test if it is missing."""
    found = SHARED / path
    if not found.exists():
        pytest.skip(f"{found} is missing; set FACE_PRUNING_SHARED to the folder of test data")
    return found
