"""README.md and docs/: tables that are computed, snippets that run, commands and links that lead somewhere."""

import re
import shlex
from pathlib import Path

import keras
import pytest
from keras import layers

from benchmarks.dsfd_table import HEADERS, row
from lib.config import Config, MacConfig
from lib.models.backbones import BACKBONES
from tests.shared import ROOT
from tools.config_reference import PAGE, page

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def _documented() -> dict[str, list[str]]:
    lines = (ROOT / "docs" / "dsfd.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {cells[0]: cells for cells in rows}


def test_every_backbone_is_in_the_table() -> None:
    documented = _documented()
    assert documented["backbone"] == HEADERS
    assert set(BACKBONES) <= set(documented)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if "resnet" in n else n for n in BACKBONES])
def test_the_table_says_what_the_networks_cost(name: str) -> None:
    assert row(name) == _documented()[name]


def test_the_config_reference_is_that_of_the_config() -> None:
    assert PAGE.read_text() == page(), "python tools/config_reference.py writes it anew"
    named = re.findall(r"^- `(\w+)\.(\w+)` = ", PAGE.read_text(), re.MULTILINE)
    assert sorted(named) == sorted((name, key) for name, section in Config() for key in type(section).model_fields)


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.name)
def test_links_lead_to_files_and_headings(file: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", file.read_text()):
        path, _, heading = target.partition("#")
        there = (file.parent / path).resolve() if path else file
        assert there.exists(), f"{file.name}: {target}"
        if heading:
            titles = re.findall(r"^#+ (.+)$", there.read_text(), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles], target


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.name)
def test_snippets_are_python(file: Path) -> None:
    for block in _snippets(file):
        compile(block, str(file), "exec")


def test_the_snippets_about_pruning_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(keras.applications, "MobileNetV2", _small_network)
    names: dict[str, object] = {}
    for block in _snippets(ROOT / "docs" / "pruning.md"):
        exec(block, names)
    assert (tmp_path / "small.keras").is_file()
    assert (tmp_path / "model.dot").is_file()


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.name)
def test_commands_name_scripts_options_and_settings_that_exist(file: Path) -> None:
    lines = re.findall(r"^ {4}((?:KERA\S+ )*python .+(?:(?<=\\)\n.+)*)", file.read_text(), re.MULTILINE)
    for line in lines:
        words = shlex.split(line.replace("\\\n", " "), comments=True)
        _, script, *rest = words[words.index("python") :]
        if script.startswith("-"):
            continue
        assert (ROOT / script).is_file(), line
        source = (ROOT / script).read_text()
        settings = MacConfig() if script == "mac.py" else Config()
        for word, following in zip(rest, [*rest, ""][1:], strict=True):
            if word.startswith("--"):
                option = word.partition("=")[0].strip("[]")
                assert f'"{option}"' in source, line
            if word == "--config" and "/" in following:
                assert (ROOT / following).is_file(), line
            if re.match(r"[A-Z_]+\.\w+=", word):
                settings.override(word)


def _small_network(**_: object) -> keras.Model:
    """In the place of a network whose repair takes a minute."""
    image = keras.Input((32, 32, 3))
    x = image
    for name in ("stem", "block_1_conv", "block_2_conv"):
        x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(16, 3, 2, "same", name=name)(x)))
    return keras.Model(image, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def _snippets(file: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", file.read_text(), re.MULTILINE | re.DOTALL)
