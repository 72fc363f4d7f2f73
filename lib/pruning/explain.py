"""Which channels of a model can go, who makes and reads them, what they cost; and why the others must stay."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import keras
import numpy as np

from lib.files import write_text
from lib.pruning.cost_model import CostModel
from lib.pruning.graph.sets import PlacedSet, SetMap
from lib.pruning.plan import image_size

_COLOURS = 10  # of graphviz' scheme "set310"


@dataclass(frozen=True)
class SetFacts:
    """A set of channels that can only go together.

    Attributes:
        name, channels: of the set.
        makers: layers whose filters they are.
        norms: normalisations that they run through.
        readers: layers with weights that read them.
        parameters, macs: what one of the channels costs while all others are there; macs 0 where no size is known.

    """

    name: str
    channels: int
    makers: tuple[str, ...]
    norms: tuple[str, ...]
    readers: tuple[str, ...]
    parameters: int
    macs: int


@dataclass(frozen=True)
class FixedFacts:
    """Channels that must stay: the layers that make them, how many, and why."""

    makers: tuple[str, ...]
    channels: int
    why: str


@dataclass(frozen=True)
class Explanation:
    """What `explain` found; its text has a line for every set and for all channels that must stay.

    Attributes:
        sets, fixed: in the order in which the model makes them.
        dot: a picture of the graph in graphviz' language: a node a call, in its set's colour, grey where channels must
            stay. `dot -Tsvg FILE` draws it.

    """

    sets: tuple[SetFacts, ...]
    fixed: tuple[FixedFacts, ...]
    dot: str

    def __str__(self) -> str:
        lines = []
        for item in self.sets:
            through = f", through {', '.join(item.norms)}" if item.norms else ""
            cost = f"{item.parameters:,} parameters" + (f" and {item.macs:,} MACs" if item.macs else "")
            lines.append(
                f"{item.name}: {item.channels} channels can go, each with {cost}; made by {', '.join(item.makers)}"
                f"{through}; read by {', '.join(item.readers) or 'nobody'}"
            )
        lines += [f"{', '.join(item.makers)}: {item.channels} channels stay: {item.why}" for item in self.fixed]
        return "\n".join(lines)

    def write_dot(self, path: str | os.PathLike[str]) -> None:
        """Writes `dot` to a file."""
        write_text(path, self.dot)


def explain(model: keras.Model, protected: tuple[str, ...] = (), size_px: tuple[int, int] | None = None) -> Explanation:
    """What can be taken out of a functional model and what cannot, with the reasons.

    Args:
        model, protected: as for `plan`.
        size_px: height and width at which multiply-accumulates are counted, where the model takes images of any size;
            None there: they are not.

    Raises:
        ModelError: a layer's channels cannot be followed; it is named.
        ConfigError: a pattern of `protected` fits no layer.

    """
    costs = CostModel(model, *image_size(model, size_px, needed=False), protected)
    placed = costs.set_map
    sized = size_px is not None or not any(None in tensor.shape[1:-1] for tensor in model.inputs)
    sets = tuple(_set_facts(placed, found, costs, sized) for found in placed.sets)
    fixed = tuple(
        FixedFacts(found.item.convolutions, found.item.size, placed.graph.reasons.get(int(found.slots[0]), "must stay"))
        for found in placed.fixed
    )
    return Explanation(sets, fixed, _dot(placed))


def _set_facts(placed: SetMap, found: PlacedSet, costs: CostModel, sized: bool) -> SetFacts:
    item = found.item
    mine = np.zeros(placed.slots, bool)
    mine[found.slots] = True
    readers = [port.layer.name for port in placed.readers() if mine[placed.slot_of[port.inward]].any()]
    cost = costs.of_channel(item.name)
    return SetFacts(
        item.name,
        item.size,
        item.convolutions,
        item.norms,
        tuple(dict.fromkeys(readers)),
        cost.parameters,
        cost.macs if sized else 0,
    )


def _dot(placed: SetMap) -> str:
    set_of: Mapping[int, int] = {
        int(slot): number for number, found in enumerate(placed.sets) for slot in found.slots.tolist()
    }
    lines = ["digraph model {", '  node [shape=box, style=filled, fontname="sans-serif", colorscheme=set310]']
    made_by = dict.fromkeys(placed.graph.calls.inputs, "input")
    lines.append("  input [fillcolor=gray90]")
    for position, step in enumerate(placed.graph.steps):
        node = f"call{position}"
        slots = [placed.slot_of[placed.graph.channels[made]] for made in step.call.outputs]
        sets = {set_of.get(slot) for slot in np.unique(np.concatenate(slots)).tolist()}
        (colour,) = sets if len(sets) == 1 else (None,)
        fill = "gray90" if colour is None else str(1 + colour % _COLOURS)
        kind = type(step.layer).__name__
        label = f"{step.layer.name}\\n{kind}".replace('"', "'")
        title = "" if colour is None else placed.sets[colour].item.name.replace('"', "'")
        lines.append(f'  {node} [label="{label}", tooltip="{title}", fillcolor={fill}]')
        lines += [f"  {source} -> {node}" for source in (made_by[read] for read in step.call.inputs if read in made_by)]
        made_by.update(dict.fromkeys(step.call.outputs, node))
    return "\n".join([*lines, "}"]) + "\n"
