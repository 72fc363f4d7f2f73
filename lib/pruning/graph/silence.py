"""What falls silent when channels go: branches that nothing feeds any more, up to the addition or concatenation."""

from dataclasses import dataclass

import numpy as np

from lib.arrays import BoolArray
from lib.errors import ConfigError
from lib.pruning.graph.channels import ChannelGraph
from lib.pruning.graph.flow import Step
from lib.pruning.graph.kinds import CLOSED, WEIGHTED, drops_operands, has_factors


@dataclass(frozen=True)
class Silence:
    """The consequences of masks.

    Attributes:
        alive: by class, whether any channel of it is left; those that are not are gone from every layer.
        off: id of each layer that makes or normalises channels -> those of its channels that are gone.
        dead: positions of the calls of which nothing is left, or that nothing reads any more.
        scaled: positions of the sums with factors that one operand is left of; all they still do is to scale it.

    """

    alive: BoolArray
    off: dict[int, BoolArray]
    dead: frozenset[int]
    scaled: frozenset[int]


@dataclass
class _State:
    """Which channels of a tensor are zero, and which a constant that is not (0.5 behind the sigmoid of a zero)."""

    zero: BoolArray
    stuck: BoolArray

    @property
    def idle(self) -> BoolArray:
        return self.zero | self.stuck

    @classmethod
    def lively(cls, channels: int) -> "_State":
        return cls(np.zeros(channels, bool), np.zeros(channels, bool))


def silence(graph: ChannelGraph, masked: BoolArray) -> Silence:
    """Follows masked classes through the model.

    A convolution of which no input is left is silent and goes too, then whatever it alone fed. An addition goes on
    with the operands that are left, a concatenation with the others' channels. What nothing reads any more goes as
    well.

    Args:
        masked: by class, True for the channels that are off.

    Raises:
        ConfigError: without these channels the model cannot compute its outputs; the place is named.

    """
    states = {number: _State.lively(len(graph.channels[number])) for number in graph.calls.inputs}
    off: dict[int, BoolArray] = {}
    for step in graph.steps:
        ins = [states[number] for number in step.call.inputs]
        if step.kind in CLOSED:
            if any(state.idle.any() for state in ins):
                raise _cannot(step, "reads channels of which nothing would be left")
            states.update({number: _State.lively(len(graph.channels[number])) for number in step.call.outputs})
            if step.kind == "heads":
                off[id(step.layer)] = masked[graph.class_of[graph.ports[id(step.layer)].outward]]
                if off[id(step.layer)].all():
                    raise _cannot(step, "would have no head left")
            continue
        if step.kind == "move":
            states.update(_moved(step, {number: states[number] for number in step.call.inputs}))
            continue
        state = states[step.call.outputs[0]] = _behind(graph, step, ins, masked)
        if step.kind in WEIGHTED:
            if id(step.layer) in off and (off[id(step.layer)] != state.idle).any():
                raise _cannot(step, "is used in several places, and would be left in some of them only")
            off[id(step.layer)] = state.idle
    for number in graph.calls.outputs:
        if states[number].idle.any():
            name = next(step.layer.name for step in graph.steps if number in step.call.outputs)
            raise ConfigError(f"these masks cut an output off from the input: nothing would be left to feed {name}")

    left = _left(graph, {number for number, state in states.items() if not state.idle.all()})
    dead = frozenset(range(len(graph.steps))) - left
    alive = np.zeros(graph.classes, bool)
    for number in graph.calls.inputs:
        alive[graph.class_of[graph.channels[number]]] = True
    for step in (graph.steps[position] for position in left):
        if step.kind == "heads":
            alive[graph.class_of[graph.ports[id(step.layer)].outward[~off[id(step.layer)]]]] = True
        if step.kind in ("make", "depthwise", *CLOSED):
            for number in step.call.outputs:
                alive[graph.class_of[graph.channels[number][~states[number].idle]]] = True
    used = {id(graph.steps[position].layer) for position in left}
    off = {layer: gone if layer in used else np.ones_like(gone) for layer, gone in off.items()}
    scaled = set()
    for position, step in enumerate(graph.steps):
        lost = [number for number in step.call.inputs if states[number].idle.all()]
        _check_remains(graph, step, position in dead, lost, alive)
        if lost and position in left and has_factors(step.layer):
            scaled.add(position)
    return Silence(alive, off, dead, frozenset(scaled))


def _left(graph: ChannelGraph, lively: set[int]) -> set[int]:
    """Positions of the calls that make something of these tensors which reaches an output."""
    wanted = set(graph.calls.outputs)
    left = set()
    for position, step in reversed(list(enumerate(graph.steps))):
        if wanted.intersection(step.call.outputs) and lively.intersection(step.call.outputs):
            left.add(position)
            wanted.update(step.call.inputs)
    return left


def _behind(graph: ChannelGraph, step: Step, ins: list[_State], masked: BoolArray) -> _State:
    """The state of a step's output."""
    layer = step.layer
    zeros, stucks = [state.zero for state in ins], [state.stuck for state in ins]
    gone = masked[graph.class_of[graph.channels[step.call.outputs[0]]]]
    match step.kind:
        case "make" | "l2norm" if stucks[0].any():
            raise _cannot(step, "would read a constant that no layer is left to make")
        case "l2norm":
            return ins[0]
        case "make":
            if zeros[0].all() and graph.feeds_output[graph.class_of[graph.channels[step.call.outputs[0]]]].any():
                raise _cannot(step, "reaches an output, and nothing would be left to feed it")
            zero = gone | zeros[0].all()
        case "depthwise":
            zero = gone | np.repeat(zeros[0] | stucks[0], len(gone) // len(zeros[0]))
        case "norm":
            silenced = gone | zeros[0] | (stucks[0] & layer.scale)
            return _State(silenced, stucks[0] & ~silenced)
        case "pass":
            if any(
                state.idle.any() for number, state in zip(step.call.inputs, ins, strict=True) if number in step.beside
            ):
                raise _cannot(step, "would lose what it spreads over all channels of another")
            zero, stuck = zeros[step.main], stucks[step.main]
            return _State(zero, stuck) if step.keeps else _State(zero & False, zero | stuck)
        case "product":
            zero = np.any(zeros, axis=0)
            if (np.any(stucks, axis=0) & ~np.all(stucks, axis=0) & ~zero).any():
                raise _cannot(step, "would multiply by a constant that no layer is left to make")
            return _State(zero, np.any(stucks, axis=0) & ~zero)
        case "sum":
            zero, idle = np.all(zeros, axis=0), np.all([z | s for z, s in zip(zeros, stucks, strict=True)], axis=0)
            if (np.any(stucks, axis=0) & ~idle).any():
                raise _cannot(step, "would add a constant that no layer is left to make")
            return _State(zero, idle & ~zero)
        case _:
            return _State(np.concatenate(zeros), np.concatenate(stucks))
    return _State(zero, zero & False) if step.keeps else _State(zero & False, zero)


def _moved(step: Step, states: dict[int, _State]) -> dict[int, _State]:
    """The states of a move's outputs; of channels that can only go together all must be gone, or none."""
    zero, stuck = (np.concatenate([getattr(state, name) for state in states.values()]) for name in ("zero", "stuck"))
    found = {}
    for number, index in zip(step.call.outputs, step.index, strict=True):
        idle = (zero | stuck)[index]
        if (idle.any(axis=0) != idle.all(axis=0)).any():
            raise _cannot(step, "would lose channels that are tied to channels that stay")
        found[number] = _State(np.all(zero[index], axis=0), np.any(stuck[index], axis=0))
    return found


def _check_remains(graph: ChannelGraph, step: Step, dead: bool, lost: list[int], alive: BoolArray) -> None:
    """Raises ConfigError where a call would have to go on without an input that it needs."""
    if dead and id(step.layer) in graph.guarded:
        raise _cannot(step, "is protected, and nothing would be left to feed it")
    if dead or not lost:
        return
    if step.kind == "join" and any(alive[graph.class_of[graph.channels[number]]].any() for number in lost):
        raise _cannot(step, "would lose channels that are tied to channels elsewhere that stay")
    if step.kind == "move":
        raise _cannot(step, "would have operands left and operands gone, and cannot go on without one")
    if step.kind == "sum":
        shapes = {number: graph.calls.shapes[number][:-1] for number in (*step.call.inputs, *step.call.outputs)}
        size = shapes[step.call.outputs[0]]
        whole = any(shapes[number] == size for number in step.call.inputs if number not in lost)
        if getattr(step.layer, "crops_to_first", False):
            whole = step.call.inputs[0] not in lost or (whole and None not in size[1:])
        alone = not has_factors(step.layer) or len(lost) == len(step.call.inputs) - 1
        if not (drops_operands(step.layer) and whole and alone):
            raise _cannot(step, "would have operands left and operands gone, and cannot go on without one")


def _cannot(step: Step, why: str) -> ConfigError:
    return ConfigError(f"these masks leave no working model: {step.layer.name} ({type(step.layer).__name__}) {why}")
