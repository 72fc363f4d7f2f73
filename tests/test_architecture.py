"""The house rules that a machine can check."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shared import ROOT

# The rooms of lib/ from the ground up, and which of them each may import; its own files and the stones always. A place
# with a dot is one file of another room. CONTRIBUTING.md shows this table.
ROOMS: dict[str, tuple[str, ...]] = {
    "geometry": (),
    "pruning": (),
    "data": ("geometry",),
    "models": ("geometry", "pruning.graph"),
    "training": ("data", "models", "geometry", "pruning"),
    "detection": ("geometry", "models", "data.images", "pruning.graph"),
    "evaluation": ("detection", "geometry", "data", "models", "pruning"),
    "search": ("training", "evaluation", "detection", "data", "models", "pruning"),
    "runs": ("geometry", "pruning", "data", "models", "training", "detection", "evaluation", "search"),
}
STONES = {"errors", "files", "arrays", "limits", "tables", "console", "settings"}  # everyone may stand on them
CONFIG = "config"  # a stone for runs/, tools and scripts alone
# TensorFlow's formats, and its replicas.
EXPORTS = {"pb.py", "saved_model.py", "litert.py", "quantized.py", "logs.py", "devices.py", "gradients.py"}
FILES = sorted((ROOT / "lib").rglob("*.py"))


def _imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def _breaches(file: Path) -> set[tuple[str, str]]:
    """(file, module) for each import of a file in lib/ that the table does not allow."""
    place = file.relative_to(ROOT / "lib")
    room = place.parts[0].removesuffix(".py")
    found = set()
    for name in _imports(file):
        if not name.startswith("lib."):
            continue
        module = name.removeprefix("lib.")
        other = module.split(".")[0]
        allowed = {room, *STONES, *ROOMS.get(room, ()), *((CONFIG,) if room == "runs" else ())}
        if not any(module == place or module.startswith(f"{place}.") for place in allowed):
            assert other in ROOMS or other in STONES or other == CONFIG, f"{name} is in no room"
            found.add((str(place), module))
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_go_one_way(file: Path) -> None:
    found = _breaches(file)
    assert not found, f"{found}: not in the table of rooms, see CONTRIBUTING.md"


def test_the_table_has_no_circle() -> None:
    order = list(ROOMS)
    for room, others in ROOMS.items():
        for other in others:
            at = order.index(other.split(".")[0])
            assert at < order.index(room), f"{room} stands below {other}"


def test_a_breach_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = tmp_path / "lib" / "geometry" / "bad.py"
    bad.parent.mkdir(parents=True)
    bad.write_text("from lib.models import build\nfrom lib.arrays import FloatArray\nfrom lib.config import Config\n")
    monkeypatch.setattr("tests.test_architecture.ROOT", tmp_path)
    assert _breaches(bad) == {("geometry/bad.py", "models"), ("geometry/bad.py", "config")}


def test_the_root_holds_stones_and_rooms_only() -> None:
    files = {file.stem for file in (ROOT / "lib").glob("*.py")}
    folders = {folder.name for folder in (ROOT / "lib").iterdir() if folder.is_dir() and folder.name != "__pycache__"}
    assert files == {"__init__", *STONES}
    assert folders == {CONFIG, *ROOMS}


def test_contributing_shows_the_table() -> None:
    rows = [f"    {room:<11} {', '.join(others) or '-'}" for room, others in ROOMS.items()]
    assert "\n".join(rows) in (ROOT / "CONTRIBUTING.md").read_text()


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
    if file.name in ("__init__.py", "errors.py", "arrays.py"):
        return
    assert (ROOT / "tests" / relative.parent / f"test_{relative.name}").is_file()
