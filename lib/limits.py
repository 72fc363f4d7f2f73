"""How much a file may ask for: judged by what it says of itself, before memory is set aside for it.

The environment holds what a user set, FACE_PRUNING_MAX_PIXELS and so on, so that every program and every process of one
looks at the same; `allowing` puts what a config says there.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

from lib.errors import ConfigError


@dataclass(frozen=True)
class Limits:
    """The largest that is read.

    Attributes:
        max_pixels: of an image; 450 MB, and as much again while its colours are put in order.
        max_unpacked_bytes: of an archive of weights, beyond four times its own size.
        max_tensor_bytes: of all tensors in it together, beyond four times its own size.
        max_description_bytes: of the part of it that describes the model, which is read at a megabyte a second.
        max_prediction_bytes: of a prediction file in a .zip, unpacked.
        max_channels: that a layer in a `.keras` file may make.
        max_layer_number: of anything else that a layer there is described by.

    """

    max_pixels: int = 150_000_000
    max_unpacked_bytes: int = 64 << 20
    max_tensor_bytes: int = 64 << 20
    max_description_bytes: int = 16 << 20
    max_prediction_bytes: int = 64 << 20
    max_channels: int = 8192
    max_layer_number: int = 1 << 20


def limits() -> Limits:
    """Those in force: what the environment says, or else the defaults; ConfigError where it says no whole number."""
    return Limits(**{field.name: limit(field.name) for field in fields(Limits)})


def limit(name: str) -> int:
    """One of those in force; see `limits`."""
    text = os.environ.get(_variable(name))
    if text is None:
        return int(getattr(Limits, name))
    if not re.fullmatch("[0-9]{0,17}[1-9][0-9]{0,17}", text):
        raise ConfigError(f"{_variable(name)} = {text[:80]!r} in the environment: expected a whole number above 0")
    return int(text)


def raising(name: str) -> str:
    """What a message tells a user who wants to read more: how to set a limit."""
    return f"raise LIMITS.{name} in the config, or {_variable(name)} in the environment"


@contextmanager
def allowing(**raised: int | None) -> Iterator[None]:
    """Puts limits in force for this process, its threads and the processes that it starts meanwhile.

    Args:
        raised: any of `Limits`, by name; None leaves it as it is.

    """
    new = {_variable(name): str(value) for name, value in raised.items() if value is not None}
    before = {name: os.environ.get(name) for name in new}
    os.environ.update(new)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _variable(name: str) -> str:
    return f"FACE_PRUNING_{name.upper()}"
