"""Copies of layers, and of whole models, made a call at a time with nested models taken apart."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from lib.arrays import FloatArray
from lib.pruning.graph.calls import Call, Calls


def copied(layer: Any, **changes: Any) -> Any:
    """A new layer (or bare operation) of the same configuration but for these changes, without weights yet."""
    try:
        return type(layer).from_config({**layer.get_config(), **changes})
    except NotImplementedError:  # a bare operation that was given an array; it has no state
        if changes or isinstance(layer, keras.Layer):
            raise
        return layer


def give_weights(copy: Any, values: Sequence[FloatArray]) -> None:
    """Puts values into a built copy's weights; what a layer works out from them (after `adapt`) is worked out anew."""
    for weight, value in zip(copy.weights, values, strict=True):
        weight.assign(value)
    if hasattr(copy, "finalize_state"):
        copy.finalize_state()


def rebuilt(calls: Calls, make: Callable[[int, Call, dict[int, Any]], Any]) -> keras.Model:
    """A model of the same inputs and outputs, its calls made anew, producers first.

    Args:
        make: (position, call, the new tensors so far by number) -> the call's new outputs; None: it is left out, as
            outputs are that are None in a list of them.

    """
    tensors: dict[int, Any] = {}
    for number, tensor in zip(calls.inputs, calls.model.inputs, strict=True):
        tensors[number] = keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)
    for position, call in enumerate(calls.calls):
        made = make(position, call, tensors)
        if made is not None:
            outputs = made if isinstance(made, list) else keras.tree.flatten(made)
            tensors.update((n, one) for n, one in zip(call.outputs, outputs, strict=True) if one is not None)
    inputs = keras.tree.pack_sequence_as(calls.model.input, [tensors[number] for number in calls.inputs])
    outputs = keras.tree.pack_sequence_as(calls.model.output, [tensors[number] for number in calls.outputs])
    return calls.kind(inputs, outputs, name=calls.name)
