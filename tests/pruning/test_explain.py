from pathlib import Path

import keras
import pytest
from keras import layers

from lib.errors import ConfigError
from lib.pruning import CostModel, explain
from tests.networks import nested_networks


def test_it_says_who_makes_and_reads_a_set_and_what_a_channel_costs() -> None:
    model = nested_networks()["residual, nested 0"]()
    found = explain(model)
    stem = next(item for item in found.sets if item.name == "stem")
    assert (stem.channels, stem.makers, stem.norms) == (8, ("stem", "branch"), ("branch_bn",))
    assert stem.readers == ("branch", "head")
    costs = CostModel(model, 16, 16)
    less = costs.of({"stem": 7})
    assert (stem.parameters, stem.macs) == (costs.full.parameters - less.parameters, costs.full.macs - less.macs)
    assert "stem: 8 channels can go, each with" in str(found)
    assert "made by stem, branch, through branch_bn; read by branch, head" in str(found)


def test_it_says_why_channels_stay() -> None:
    image = keras.Input((None, None, 3))
    x = layers.Conv2D(4, 3, name="kept")(image)
    x = layers.Conv2D(6, 3, name="free")(x)
    model = keras.Model(image, layers.Conv2D(2, 1, name="head")(x))
    found = explain(model, protected=("kept",))
    assert [(item.makers, item.channels, item.why) for item in found.fixed] == [
        (("kept",), 4, "kept is protected"),
        (("head",), 2, "reaches the output"),
    ]
    assert "head: 2 channels stay: reaches the output" in str(found)
    assert found.sets[0].macs == 0  # of no known size
    assert explain(model, size_px=(16, 16)).sets[0].macs > 0
    with pytest.raises(ConfigError, match="no layer is called"):
        explain(model, protected=("other",))


def test_the_picture_has_every_call_and_the_ways_between_them(tmp_path: Path) -> None:
    model = nested_networks()["gated, nested 1"]()
    explain(model).write_dot(tmp_path / "model.dot")
    text = (tmp_path / "model.dot").read_text()
    assert text.startswith("digraph model {") and text.endswith("}\n")
    for name in ("first", "gated", "gate", "head"):
        assert f'label="{name}\\n' in text
    assert text.count("->") >= text.count("label=")
    head = next(line for line in text.splitlines() if 'label="head' in line)
    assert "fillcolor=gray90" in head
