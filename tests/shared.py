"""Reference data beside the project: real images, published weights, reference outputs. Absent on most machines."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("FACE_PRUNING_SHARED", ROOT.parent / "shared"))


def shared(path: str) -> Path:
    """The file or folder `path` of the reference data; skips the test where it is absent."""
    found = SHARED / path
    if not found.exists():
        pytest.skip(f"reference data {path} is not on this machine (looked in {SHARED})")
    return found
