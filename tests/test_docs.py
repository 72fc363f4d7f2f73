"""Tables in docs/ that are computed."""

import pytest

from benchmarks.dsfd_table import HEADERS, row
from lib.models.backbones import BACKBONES
from tests.shared import ROOT


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
