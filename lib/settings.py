"""What every config is made of: sections of typed settings, read from a file, overridden from the command line.

Unknown names and wrong types fail at the line that holds them.
"""

import ast
import difflib
import json
import os
import runpy
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import pydantic
from pydantic import BaseModel, ConfigDict

from lib.errors import ConfigError

AnySettings = TypeVar("AnySettings", bound="Settings")


class Section(BaseModel):
    """A section of settings; assignments are checked at once."""

    model_config = ConfigDict(validate_assignment=True, extra="forbid", strict=True)

    def __setattr__(self, name: str, value: Any) -> None:
        known = type(self).model_fields
        if name not in known:
            raise ConfigError(f"{type(self).__name__.upper()}.{name} is no setting{_nearest(name, list(known))}")
        try:
            super().__setattr__(name, _as_declared(value, known[name].annotation))
        except pydantic.ValidationError as error:
            raise ConfigError(_describe(f"{type(self).__name__.upper()}.{name}", error)) from None


class Settings(BaseModel):
    """Base of all configs: what is the same for every set of sections."""

    model_config = ConfigDict(extra="forbid")

    def __getattr__(self, name: str) -> Any:
        raise ConfigError(f"config.{name} is no section{_nearest(name, list(type(self).model_fields))}")

    def override(self, assignment: str) -> None:
        """Applies one `SECTION.key=value` of the command line; lists may be written `a,b`.

        Raises:
            ConfigError: it has another form, or the setting is unknown or the value unfit.

        """
        target, equals, text = assignment.partition("=")
        section, dot, key = target.strip().partition(".")
        if not (equals and dot):
            raise ConfigError(f"{assignment!r}: expected SECTION.key=value, for example {_example(self)}")
        if section not in type(self).model_fields:
            raise ConfigError(
                f"{assignment!r}: {section} is no section{_nearest(section, list(type(self).model_fields))}"
            )
        try:
            setattr(getattr(self, section), key, text.strip())
        except ConfigError as error:
            raise ConfigError(f"{assignment!r}: {error}") from None

    def check(self) -> None:
        """Raises ConfigError where settings that are fine alone do not go together."""


def load_settings(path: str | os.PathLike[str], overrides: Sequence[str], kind: type[AnySettings]) -> AnySettings:
    """Reads a config file (`.py` with a `config`, or a run folder's `config.json`), then applies the overrides.

    Args:
        kind: the class that the file's `config` must be of.

    Raises:
        ConfigError: the file cannot be read, or something in it is unknown or unfit; names the file and the line.

    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"{file}: no such config file")
    config = _from_json(file, kind) if file.suffix == ".json" else _from_python(file, kind)
    for assignment in overrides:
        config.override(assignment)
    config.check()
    return config


def _from_python(file: Path, kind: type[AnySettings]) -> AnySettings:
    try:
        names = runpy.run_path(str(file), run_name="config")
    except Exception as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        line = error.lineno if isinstance(error, SyntaxError) else frames[-1].lineno if frames else 1
        detail = str(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
        raise ConfigError(f"{file}:{line}: {detail}") from error
    config = names.get("config")
    if not isinstance(config, kind):
        name = kind.__name__
        found = type(config).__name__
        raise ConfigError(f"{file}: expected `config = {name}()` (from {kind.__module__} import {name}), found {found}")
    return config.model_copy(deep=True)


def _from_json(file: Path, kind: type[AnySettings]) -> AnySettings:
    try:
        sections = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file}:{error.lineno}: {error.msg}") from error
    config = kind()
    try:
        for section, values in sections.get("config", sections).items():
            for key, value in values.items():
                setattr(getattr(config, section), key, value)
    except (ConfigError, AttributeError) as error:
        raise ConfigError(f"{file}: {error}") from error
    return config


def _as_declared(value: Any, annotation: Any) -> Any:
    """Lists become the declared tuples; text from a command line becomes the declared number, list or mapping."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _as_declared(value, get_args(annotation)[0])
    if isinstance(value, str) and annotation is not str and origin is not Literal:
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            if origin is tuple:
                value = tuple(part.strip() for part in value.split(",") if part.strip())
    if origin is tuple and not isinstance(value, tuple):
        value = tuple(value) if isinstance(value, list) else (value,)
    return value


def _example(config: Settings) -> str:
    """An override that would be right."""
    values = ((section, key, value) for section, fields in config for key, value in fields)
    section, key, value = next(entry for entry in values if entry[2] and isinstance(entry[2], int | str))
    return f"{section}.{key}={value}"


def _nearest(name: str, known: list[str]) -> str:
    folded = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.5)
    return f"; did you mean {folded[close[0]]}?" if close else f"; known: {', '.join(known)}"


def _describe(name: str, error: pydantic.ValidationError) -> str:
    """One line from pydantic's report: every message once, the input once."""
    problems = error.errors()
    messages = dict.fromkeys(problem["msg"][0].lower() + problem["msg"][1:] for problem in problems)
    return f"{name}: {' or '.join(messages)}; got {problems[0]['input']!r}"
