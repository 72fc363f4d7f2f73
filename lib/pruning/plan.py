"""Plans: how many channels of each set go, and which."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import keras
import numpy as np

from lib.arrays import FloatArray
from lib.errors import ConfigError
from lib.pruning.budgets import Budget, CostOf, Quantity, Scope, counts_within
from lib.pruning.cost_model import CostModel
from lib.pruning.criteria import CRITERIA, GAMMA, NAMES, RANDOM, Criterion, Score, combined, lowest
from lib.pruning.evidence import ACTIVATION, check_given, mean_activation, missed_by_loss
from lib.pruning.gradients import Loss
from lib.pruning.graph.channels import ChannelGraph, is_named
from lib.pruning.graph.flow import Ports
from lib.pruning.graph.sets import Mode, PlacedSet, SetMap
from lib.pruning.graph.silence import silence
from lib.pruning.graph.weights import filters_of
from lib.pruning.masks import Masks
from lib.pruning.zeros import silent_channels

_ANY_PX = (512, 512)  # where only shapes are asked for that no size changes
Rates = float | Mapping[str, float]


def plan(
    model: keras.Model,
    rates: Rates | None = None,
    criterion: Criterion = "fpgm",
    mode: Mode = "removable",
    channel_divisor: int = 1,
    min_channels: int = 1,
    protected: tuple[str, ...] = (),
    seed: int = 0,
    *,
    macs: float | None = None,
    parameters: float | None = None,
    latency: float | None = None,
    latency_of: CostOf | None = None,
    scope: Scope = "set",
    floor: float = 0.1,
    per: Literal["macs", "parameters"] | None = None,
    round_to: int | None = None,
    size_px: tuple[int, int] | None = None,
) -> Masks:
    """Chooses the least important channels of every set, by the model's present weights.

    How many is said by `rates`, floor(rate * channels) of a set, or by a budget: the share of the multiply-accumulates,
    parameters or milliseconds that may be left. A budget is met exactly: one channel more of any set, or `round_to`
    more, would exceed it.

    In mode "removable" channels that by their weights are zero wherever they are read come first, whatever the
    criterion says of their filters: they cost nothing. The criterion "random" looks at no weights.

    Args:
        rates: one rate, 0 <= rate < 1, or a mapping from patterns ("context*") to rates. A pattern stands for the sets
            that it names; a set that no pattern names follows one that names a layer of it. Others keep all channels.
        criterion: "fpgm", "l1", "l2", "lamp", "gamma" (the scale of the batch normalisation behind the filters),
            "random", a function of a layer's filters, [..., filters] -> [filters], or scores by set name [channels],
            such as `scores` gives: the lowest go first.
        mode: see `channel_sets`.
        channel_divisor: the channels that stay are rounded up to a multiple of this, as far as the set goes; 1: off.
        min_channels: so many stay in every set. With 0 a rate of 1 empties a set, and what it alone fed goes with it.
        protected: see `channel_sets`.
        seed: of the criterion "random".
        macs, parameters, latency: in place of rates, see `lib.pruning.budgets.Budget`, as are
        latency_of, scope, floor, per: the others. Sets that the criterion says nothing of keep all channels then.
        round_to: another name of `channel_divisor`.
        size_px: height and width of the images at which multiply-accumulates are counted, where the model takes any.

    Raises:
        ConfigError: a value out of range, not one of rates and budgets, a pattern that matches nothing, a set that two
            patterns match, a criterion that does not score a set, rates that empty a set without which the model does
            not work, or a budget that cannot be met.
        ModelError: a layer's channels cannot be followed.

    """
    channel_divisor = channel_divisor if round_to is None else round_to
    if channel_divisor < 1 or min_channels < 0:
        raise ConfigError(
            f"channel_divisor must be at least 1 and min_channels at least 0, got {channel_divisor} and {min_channels}"
        )
    budgets: dict[Quantity, float | None] = {"macs": macs, "parameters": parameters, "latency": latency}
    given: list[tuple[Quantity, float]] = [(name, share) for name, share in budgets.items() if share is not None]
    if len(given) + (rates is not None) != 1:
        raise ConfigError("give one of rates, macs, parameters and latency")
    if given:
        budget = Budget(*given[0], scope=scope, floor=floor, per=per, latency_of=latency_of)
        budget.check()
        if mode != "removable":
            raise ConfigError(f"a budget counts what is removed: it needs mode 'removable', got {mode!r}")
        costs = CostModel(model, *image_size(model, size_px, "macs" in (budget.quantity, budget.per)), protected)
        _require_sets(costs.set_map)
        said = _ranked(costs.set_map, criterion, seed)
        kept = counts_within(budget, costs, said, channel_divisor, min_channels)
        return _masks(costs.set_map, kept, said, criterion, protected)
    assert rates is not None
    placed = SetMap(ChannelGraph(model, protected), mode)
    _require_sets(placed)
    may_empty = min_channels == 0 and mode == "removable"
    rate_of = _rate_by_set(placed, rates, may_empty)
    kept = {}
    for found in placed.sets:
        size = found.item.size
        count = size - _floor(rate_of[found.item.name] * size)
        if count:
            count = min(size, max(-(-count // channel_divisor) * channel_divisor, min_channels))
        kept[found.item.name] = count
    return _masks(placed, kept, _ranked(placed, criterion, seed), criterion, protected)


def plan_kept(
    model: keras.Model,
    kept: Mapping[str, int],
    criterion: Criterion = "fpgm",
    protected: tuple[str, ...] = (),
    seed: int = 0,
) -> Masks:
    """Chooses which channels go if `kept` of each set stay: `plan` for counts in place of rates, mode "removable".

    Args:
        kept: set name -> channels that stay, 0: none; sets that are not named keep all.

    Raises:
        ConfigError: a set is unknown, a count does not fit it, or the model would not work without a set.

    """
    placed = SetMap(ChannelGraph(model, protected), "removable")
    sizes = {found.item.name: found.item.size for found in placed.sets}
    for name, count in kept.items():
        if name not in sizes:
            raise ConfigError(f"no set of channels is called {name!r}; known: {', '.join(sizes)}")
        if not 0 <= count <= sizes[name]:
            raise ConfigError(f"{name} has {sizes[name]} channels and cannot keep {count}")
    return _masks(placed, {**sizes, **kept}, _ranked(placed, criterion, seed), criterion, protected)


def scores(
    model: keras.Model,
    criterion: Criterion = "fpgm",
    mode: Mode = "removable",
    protected: tuple[str, ...] = (),
    seed: int = 0,
    *,
    batches: Iterable[Any] | None = None,
    loss: Loss | None = None,
) -> dict[str, FloatArray]:
    """What a criterion says of every channel, by set name [channels]: `plan` takes the lowest first.

    Besides those of `plan` there are criteria that look at images, see `lib.pruning.evidence`: "activation", and by the
    gradients of a loss "taylor" and "fisher". Give their scores to `plan` as its criterion.

    Sets on which the criterion has nothing to say ("gamma" without a batch normalisation) are left out. Other arguments
    and errors are those of `plan`.

    Args:
        batches: of "activation" inputs, of the other two (inputs, targets).
        loss: (targets, outputs) -> a scalar, such as an instance of a loss of Keras.

    """
    check_given(criterion, batches, loss)
    placed = SetMap(ChannelGraph(model, protected), mode)
    if batches is not None and criterion == ACTIVATION:
        return mean_activation(placed, batches)
    if batches is not None and loss is not None:
        return _combined(placed, criterion, missed_by_loss(placed, model, batches, loss, str(criterion)))
    return _scores(placed, criterion, seed)


def _scores(placed: SetMap, criterion: Criterion, seed: int) -> dict[str, FloatArray]:
    if isinstance(criterion, Mapping):
        return _given_scores(placed, criterion)
    check_given(criterion, None, None)
    if isinstance(criterion, str) and criterion not in NAMES:
        raise ConfigError(f"no criterion is called {criterion!r}; known: {', '.join(NAMES)}")
    if criterion == RANDOM:
        random = np.random.default_rng(seed)
        return {found.item.name: random.random(found.item.size) for found in placed.sets}
    return _combined(placed, criterion, {})


def _combined(placed: SetMap, criterion: Criterion, known: dict[int, FloatArray]) -> dict[str, FloatArray]:
    """Scores by set; `known`, by the id of a layer, are its filters': it may be in several sets."""
    members = {found.item.name: _member_scores(placed, found, criterion, known) for found in placed.sets}
    return {name: combined(said) for name, said in members.items() if said}


def _given_scores(placed: SetMap, given: Mapping[str, Any]) -> dict[str, FloatArray]:
    """Copies of scores by set name; raises ConfigError unless they are finite and fit the sets."""
    sizes = {found.item.name: found.item.size for found in placed.sets}
    if unknown := given.keys() - sizes.keys():
        raise ConfigError(f"there are scores of {min(unknown)!r}, but no such set; known: {', '.join(sizes)}")
    found: dict[str, FloatArray] = {name: np.array(given[name], np.float64) for name in sizes if name in given}
    for name, said in found.items():
        if said.shape != (sizes[name],) or not np.isfinite(said).all():
            raise ConfigError(f"{name} needs {sizes[name]} finite scores, one a channel, got shape {said.shape}")
    return found


def _ranked(placed: SetMap, criterion: Criterion, seed: int) -> dict[str, FloatArray]:
    """The scores by which channels are taken: those that are silent by their weights come first of all."""
    found = _scores(placed, criterion, seed)
    if placed.mode == "removable" and criterion != RANDOM:
        silent = silent_channels(placed)
        for item in placed.sets:
            if item.item.name in found:
                found[item.item.name][silent[item.slots]] = -np.inf
    return found


def image_size(model: keras.Model, size_px: tuple[int, int] | None, needed: bool) -> tuple[int, int]:
    """Height and width at which costs are counted: as given, or else the model's input's.

    Raises:
        ConfigError: it is `needed`, not given, and the model takes images of any size.

    """
    if size_px is not None:
        return size_px
    sizes = [tuple(tensor.shape[1:3]) for tensor in model.inputs if len(tensor.shape) == 4]
    if not any(None in size for size in sizes):
        return sizes[0] if sizes else _ANY_PX
    if needed:
        raise ConfigError(
            f"{model.name} takes images of any size; give size_px=(height, width), at which its multiply-accumulates "
            "are counted"
        )
    return _ANY_PX


def _require_sets(placed: SetMap) -> None:
    """Raises ConfigError where a model has no channel that can go; says why."""
    if placed.sets:
        return
    reasons = dict.fromkeys(
        f"{found.item.name}: {placed.graph.reasons[int(placed.graph.class_of[placed.slot_of == slot][0])]}"
        for found in placed.fixed
        for slot in found.slots[:1]
    )
    why = "; ".join(list(reasons)[:3]) or "it has no layer that makes channels"
    raise ConfigError(
        f"no channel can be taken out of this model ({why}); channels can go between a layer that makes them and "
        "layers that read them one by one: see lib.pruning.explain"
    )


def _masks(
    placed: SetMap,
    kept: Mapping[str, int],
    ranked: Mapping[str, FloatArray],
    criterion: Criterion,
    protected: tuple[str, ...],
) -> Masks:
    channels = {}
    for found in placed.sets:
        item, count = found.item, found.item.size - kept[found.item.name]
        if item.name not in ranked and count:
            raise ConfigError(
                f"{item.name} runs through no batch normalisation with a gamma, by which {criterion!r} chooses; "
                "take another criterion, or give this set the rate 0"
                if criterion == GAMMA
                else f"the scores say nothing of {item.name}; add it, or give this set the rate 0"
            )
        channels[item.name] = lowest(ranked[item.name], count) if count else ()
    emptied = [name for name, count in kept.items() if not count]
    if emptied:
        try:
            silence(placed.graph, placed.off(channels))
        except ConfigError as error:
            raise ConfigError(f"{error}; emptied would be {', '.join(emptied)}") from error
    return Masks(placed.mode, channels, protected)


def _member_scores(
    placed: SetMap, found: PlacedSet, criterion: Criterion, known: dict[int, FloatArray]
) -> list[FloatArray]:
    """[size] each: what every member says about the set's channels; those it makes several of count together."""
    members: list[FloatArray] = []
    index_of = np.full(placed.slots, -1)
    index_of[found.slots] = np.arange(found.item.size)
    for port in _scored(placed, criterion):
        index = index_of[placed.slot_of[port.outward]]
        if (mine := index >= 0).any():
            if id(port.layer) not in known:
                known[id(port.layer)] = _layer_scores(port.layer, criterion)
            scores = known[id(port.layer)]
            members.append(np.bincount(index[mine], scores[mine], minlength=found.item.size).astype(np.float64))
    return members


def _scored(placed: SetMap, criterion: Criterion) -> list[Ports]:
    """The layers that a criterion looks at."""
    if criterion != GAMMA:
        return placed.makers()
    norms = [port for port in placed.graph.ports.values() if isinstance(port.layer, keras.layers.BatchNormalization)]
    return [port for port in norms if port.kind == "norm" and port.layer.scale]


def _layer_scores(layer: Any, criterion: Criterion) -> FloatArray:
    if criterion == GAMMA:
        return np.abs(np.asarray(layer.gamma, np.float64))
    assert not isinstance(criterion, Mapping), "scores of channels need no layer's"
    score: Score = CRITERIA[criterion] if isinstance(criterion, str) else criterion
    filters = filters_of(layer)
    found = np.asarray(score(filters), np.float64)
    if found.shape != filters.shape[-1:] or not np.isfinite(found).all():
        raise ConfigError(
            f"the criterion must give {layer.name} {filters.shape[-1]} finite numbers, one a filter; got an array of "
            f"shape {found.shape}{'' if np.isfinite(found).all() else ' with others'}"
        )
    return found


def _floor(count: float) -> int:
    return int(count + 1e-9)  # 0.29 * 100 is 28.999... in floating point, and means 29


def _rate_by_set(placed: SetMap, rates: Rates, may_empty: bool) -> dict[str, float]:
    patterns = rates if isinstance(rates, Mapping) else {"*": rates}
    items = [found.item for found in placed.sets]
    by_name: dict[str, str] = {}  # set -> the pattern that names it
    by_member: dict[str, str] = {}  # set -> the pattern that names a layer of it
    for pattern, rate in patterns.items():
        if not (0 <= rate < 1 or (rate == 1 and may_empty)):
            raise ConfigError(
                f"the pruning rate of {pattern!r} must be at least 0 and below 1, got {rate}"
                + (" (1, everything, needs min_channels=0 and mode 'removable')" if rate == 1 else "")
            )
        named = [item.name for item in items if is_named(item.name, pattern)]
        through = [
            item.name for item in items if any(is_named(name, pattern) for name in (*item.convolutions, *item.norms))
        ]
        if not named and not through:
            raise ConfigError(
                f"no set of channels is called {pattern!r}, and no layer in one; known: "
                f"{', '.join(item.name for item in items)}"
            )
        for names, found in ((named, by_name), (through, by_member)):
            for name in names:
                if name in found and (found is by_name or name not in by_name):
                    raise ConfigError(f"{name} has two pruning rates, by {found[name]!r} and by {pattern!r}")
                found[name] = pattern
    chosen = {**by_member, **by_name}
    return {item.name: float(patterns[chosen[item.name]]) if item.name in chosen else 0.0 for item in items}
