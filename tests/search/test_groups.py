from functools import cache

import keras
import pytest

from lib.errors import ConfigError
from lib.models import build, inference_model
from lib.pruning import ChannelSet, channel_sets
from lib.pruning.graph.sets import Mode
from lib.search.groups import SPLITS, group_sets, patterns_of

SETS = [ChannelSet(name, 8, (name,), ()) for name in ("conv1", "conv2", "context0", "context1")]


@cache
def _eresfd() -> keras.Model:
    """Nothing here changes it."""
    return build("eresfd", width_mult=4 / 256)


@cache
def _dsfd(net_structure: str) -> keras.Model:
    """Nothing here changes it."""
    return inference_model(build(net_structure))


@pytest.mark.parametrize("mode", ["removable", "per_layer"])
@pytest.mark.parametrize("split", [split for split in SPLITS if split.startswith("eresfd")])
def test_every_split_of_eresfd_holds_every_set_once(split: str, mode: Mode) -> None:
    sets = channel_sets(_eresfd(), mode)
    groups = group_sets(sets, patterns_of(split, mode))
    assert len(groups) == int(split.split("_")[1])
    assert sorted(name for members in groups.values() for name in members) == sorted(item.name for item in sets)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["removable", "per_layer"])
@pytest.mark.parametrize(
    ("net_structure", "split", "groups"),
    [("vgg_16", "dsfd_vgg_16", 8), ("resnet_v1_50", "dsfd_resnet", 7), ("MobilenetV2", "dsfd_mobilenet", 6)],
)
def test_every_split_of_dsfd_holds_every_set_once(net_structure: str, split: str, groups: int, mode: Mode) -> None:
    sets = channel_sets(_dsfd(net_structure), mode)
    found = group_sets(sets, patterns_of(split, mode))
    assert len(found) == groups
    assert sorted(name for members in found.values() for name in members) == sorted(item.name for item in sets)


def test_published_split_layer_by_layer() -> None:
    sets = channel_sets(_eresfd(), "per_layer")
    groups = group_sets(sets, patterns_of("eresfd_6", "per_layer"))
    assert groups["conv1-3"] == ("conv1", "conv2", "conv3")
    assert set(groups["conv4"]) == {"conv4_conv1", "conv4_conv2"}
    assert set(groups["fpn"]) == {f"lateral{i}" for i in range(5)} | {f"intermediate{i}" for i in range(4)}


def test_own_patterns_keep_the_models_order() -> None:
    groups = group_sets(SETS, {"all but one": ("context*", "conv2"), "one": ("conv1",)})
    assert groups == {"all but one": ("conv2", "context0", "context1"), "one": ("conv1",)}


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ({"a": ("conv*",)}, "in no group: context0, context1"),
        ({"a": ("*",), "b": ("conv1",)}, "conv1 is in two groups, in 'a' by '\\*' and in 'b' by 'conv1'"),
        ({"a": ("*", "conv1")}, "conv1 is in group 'a' twice"),
        ({"a": ("*",), "b": ()}, "'b' is empty"),
        ({"a": ("*",), "b": ("stage*",)}, "'stage\\*' of group 'b' matches no set"),
    ],
)
def test_unfit_patterns_are_named(patterns: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        group_sets(SETS, patterns)


def test_unknown_split_names_the_known() -> None:
    with pytest.raises(ConfigError, match="'eresfd_7'; known: eresfd_4"):
        patterns_of("eresfd_7", "removable")
