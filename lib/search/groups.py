"""Groups of channel sets that share one pruning rate: the published splits, and the user's own by name patterns."""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from lib.errors import ConfigError
from lib.pruning.graph.sets import ChannelSet, Mode

Patterns = Mapping[str, Sequence[str]]

# With tied channels, the output channels of a stage are also those of the pyramid level that it feeds (they are
# added), so they are one set, named after the stage's block0_conv2. That set is the "fpn" group's, and the stages keep
# the inner channels of their blocks; otherwise no set would be left for the FPN. Likewise conv3's set holds conv4's
# output.
_STREAMS = ("stage?_block0_conv2",)


def _inner(stages: str) -> tuple[str, ...]:
    return (f"stage{stages}_block?_conv1",)


def _dsfd(backbone: Mapping[str, tuple[str, ...]]) -> dict[Mode, dict[str, tuple[str, ...]]]:
    extra = {"extra": ("extra_conv?",)}
    return {
        "removable": {**backbone, **extra, "fem": ("merge?", "fem*")},  # a product ties each lateral to its merge
        "per_layer": {**backbone, **extra, "fem": ("lateral?", "merge?", "fem*")},
    }


SPLITS: dict[str, dict[Mode, dict[str, tuple[str, ...]]]] = {
    # B-FPGM, section 4.1 and its code: 4, 6 and 9 groups.
    "eresfd_4": {
        "removable": {"stem": ("conv*",), "stages": _inner("?"), "fpn": _STREAMS, "context": ("context*",)},
        "per_layer": {
            "stem": ("conv*",),
            "stages": ("stage*",),
            "fpn": ("lateral?", "intermediate?"),
            "context": ("context*",),
        },
    },
    "eresfd_6": {
        "removable": {
            "conv1-3": ("conv[123]",),
            "conv4": ("conv4*",),
            "stage1-3": _inner("[123]"),
            "stage4-5": _inner("[45]"),
            "fpn": _STREAMS,
            "context": ("context*",),
        },
        "per_layer": {
            "conv1-3": ("conv[123]",),
            "conv4": ("conv4*",),
            "stage1-3": ("stage[123]_*",),
            "stage4-5": ("stage[45]_*",),
            "fpn": ("lateral?", "intermediate?"),
            "context": ("context*",),
        },
    },
    # What the zero filters of the published files fit.
    "eresfd_6_files": {
        "removable": {
            "conv1-2": ("conv[12]",),
            "conv3-4": ("conv3", "conv4*"),
            "stage1-2": _inner("[12]"),
            "stage3-5": _inner("[345]"),
            "fpn": _STREAMS,
            "context": ("context*",),
        },
        "per_layer": {
            "conv1-2": ("conv[12]",),
            "conv3-4": ("conv3", "conv4*"),
            "stage1-2": ("stage[12]_*",),
            "stage3-5": ("stage[345]_*",),
            "fpn": ("lateral?", "intermediate?"),
            "context": ("context*",),
        },
    },
    "eresfd_9": {
        "removable": {
            "conv1-3": ("conv[123]",),
            "conv4": ("conv4*",),
            **{f"stage{n}": _inner(str(n)) for n in range(1, 6)},
            "fpn": _STREAMS,
            "context": ("context*",),
        },
        "per_layer": {
            "conv1-3": ("conv[123]",),
            "conv4": ("conv4*",),
            **{f"stage{n}": (f"stage{n}_*",) for n in range(1, 6)},
            "fpn": ("lateral?", "intermediate?"),
            "context": ("context*",),
        },
    },
    # DSFD: the backbone's stages, the extra layers, and the feature enhance module with the products before it.
    "dsfd_vgg_16": _dsfd({f"conv{stage}": (f"conv{stage}_?",) for stage in range(1, 6)} | {"fc": ("fc?",)}),
    "dsfd_resnet": _dsfd({f"conv{stage}": (f"conv{stage}_*",) for stage in range(1, 6)}),
    "dsfd_mobilenet": _dsfd(
        {
            "stride2-4": ("Conv1", "expanded_conv*", "block_[12]_*"),
            "stride8": ("block_[345]_*",),
            "stride16": ("block_[6789]_*", "block_1[012]_*"),
            "stride32": ("block_1[3456]_*",),
        }
    ),
}


def patterns_of(split: str | Patterns, mode: Mode) -> Patterns:
    """The patterns of a named split; a mapping is returned as it is.

    Raises:
        ConfigError: no split has that name.

    """
    if not isinstance(split, str):
        return split
    if split not in SPLITS:
        raise ConfigError(
            f"SEARCH.groups: no split is called {split!r}; known: {', '.join(SPLITS)}, or give "
            '{"group": ("pattern of set names", ...), ...}'
        )
    return SPLITS[split][mode]


def group_sets(sets: Iterable[ChannelSet], patterns: Patterns) -> dict[str, tuple[str, ...]]:
    """Group name -> names of its sets, in the model's order.

    Args:
        sets: all prunable sets of the model.
        patterns: group name -> patterns ("context*", "stage[12]_*") of set names, which are layer names.

    Raises:
        ConfigError: a set is in no group or in two, a pattern matches nothing, or a group is empty; all are named.

    """
    names = [item.name for item in sets]
    groups: dict[str, list[str]] = {group: [] for group in patterns}
    found: dict[str, tuple[str, str]] = {}  # set -> the group and pattern that hold it
    for group, own in patterns.items():
        if not own:
            raise ConfigError(f"SEARCH.groups: {group!r} is empty; give it patterns of set names or leave it out")
        for pattern in own:
            hits = [name for name in names if fnmatchcase(name, pattern)]
            if not hits:
                raise ConfigError(
                    f"SEARCH.groups: {pattern!r} of group {group!r} matches no set of channels; known: "
                    f"{', '.join(names)}"
                )
            for name in hits:
                if name in found:
                    other, by = found[name]
                    raise ConfigError(
                        f"SEARCH.groups: {name} is in two groups, in {other!r} by {by!r} and in {group!r} by "
                        f"{pattern!r}; every set belongs to exactly one"
                        if other != group
                        else f"SEARCH.groups: {name} is in group {group!r} twice, by {by!r} and by {pattern!r}"
                    )
                found[name] = (group, pattern)
    missing = [name for name in names if name not in found]
    if missing:
        raise ConfigError(
            f"SEARCH.groups: in no group: {', '.join(missing)}; every set of channels belongs to exactly one"
        )
    for group in groups:
        groups[group] = [name for name in names if found[name][0] == group]
    return {group: tuple(members) for group, members in groups.items()}
