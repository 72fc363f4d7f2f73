"""The house rules that a machine can check."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shared import ROOT

# From the ground up: a module imports from the floors below its own only (or from its own package).
FLOORS = [
    ["errors"],
    ["devices"],
    ["files", "memory", "settings"],
    ["cli", "config", "report", "calls"],
    ["boxes"],
    ["matching", "precision_recall"],
    ["anchors"],
    ["assignment"],
    ["compensation"],
    ["data", "models", "optimization"],
    ["losses", "cost", "drawing", "face_data", "sample_picture", "export", "litert"],
    ["pruning"],
    ["activity", "detection", "latency"],
    ["equality", "evaluation", "wider_evaluation", "protocols", "runs"],
    ["callbacks", "removal", "result_folder", "training_model"],
    ["logs", "trainer"],
    ["results"],
    ["search"],
    ["training"],
]
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}
EXPORTS = {"export.py", "litert.py", "logs.py", "devices.py"}  # TensorFlow's formats, and its replicas
FILES = sorted((ROOT / "lib").rglob("*.py"))


def _imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def _noun(file: Path) -> str:
    return file.relative_to(ROOT / "lib").parts[0].removesuffix(".py")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_go_one_way(file: Path) -> None:
    if file == ROOT / "lib" / "__init__.py":
        return
    own = _noun(file)
    for name in _imports(file):
        if name.startswith("lib."):
            other = name.split(".")[1]
            assert other == own or FLOOR_OF[other] < FLOOR_OF[own], f"{own} must not import {other}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_lib_knows_no_config_module_no_tensorflow_no_pickle(file: Path) -> None:
    forbidden = {"tensorflow", "pickle", "torch"} - ({"tensorflow"} if file.name in EXPORTS else set())
    if file.name != "schedule.py":  # importing it changes the environment, which is undone in this one place
        forbidden.add("tensorflow_model_optimization")
    for name in _imports(file):
        assert name.split(".")[0] not in forbidden
        assert "train_config" not in name
        assert "mac_config" not in name
    assert "tf.keras" not in file.read_text()


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_modules_stay_small(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 400


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_module_of_lib_has_tests(file: Path) -> None:
    relative = file.relative_to(ROOT / "lib")
    if file.name == "__init__.py" or file.name == "errors.py":
        return
    assert (ROOT / "tests" / relative.parent / f"test_{relative.name}").is_file()
