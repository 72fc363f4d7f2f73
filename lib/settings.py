"""What every config is made of: sections of typed settings, read from a file, overridden from the command line.

Unknown names and wrong types fail at the line that holds them.
"""

import ast
import difflib
import json
import os
import runpy
import traceback
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeVar, Union, get_args, get_origin

import pydantic
from pydantic import BaseModel, ConfigDict

from lib.errors import ConfigError
from lib.files import repeated

_SHOWN = 200  # characters of a value in a message
AnySettings = TypeVar("AnySettings", bound="Settings")


@dataclass(frozen=True)
class Immaterial:
    """Marks a setting that changes no weight and no recorded figure, so that it may change between two calls of a run.

    Attributes:
        unless: another setting, and the value of it with which this one does matter.

    """

    unless: tuple[str, Any] | None = None


@dataclass(frozen=True)
class _Place:
    """Where a section stands in a config: its name, and what it answers to beside its own settings, see `Settings`."""

    name: str
    aliases: Mapping[str, tuple["Section", str]]
    constants: Mapping[str, Any]


class Section(BaseModel):
    """A section of settings; assignments are checked at once.

    Attributes:
        concerns: the stages of a run that its settings mean something to; empty: all of them.

    """

    __slots__ = ("_place",)  # no field: neither compared nor written
    model_config = ConfigDict(validate_assignment=True, extra="forbid", strict=True, allow_inf_nan=False)
    concerns: ClassVar[tuple[str, ...]] = ()

    def __setattr__(self, name: str, value: Any) -> None:
        place, known = self._stands(), type(self).model_fields
        full = f"{place.name}.{name[:_SHOWN]}"
        if name in place.aliases:
            section, key = place.aliases[name]
            try:
                setattr(section, key, value)
            except ConfigError as error:
                raise ConfigError(f"{full}, now {error}") from None
        elif name in place.constants:
            constant = place.constants[name]
            if _as_declared(value, tuple[Any, ...] if isinstance(constant, tuple) else type(constant)) != constant:
                raise ConfigError(f"{full} is always {constant!r}, and cannot be {value!r}; leave it out")
        elif name not in known:
            names = [*known, *place.aliases, *place.constants]
            raise ConfigError(f"{full} is no setting{_nearest(name, names)}")
        else:
            try:
                super().__setattr__(name, _as_declared(value, known[name].annotation))
            except pydantic.ValidationError as error:
                raise ConfigError(_describe(full, error)) from None

    if not TYPE_CHECKING:  # typed code uses the names that settings have now

        def __getattr__(self, name: str) -> Any:
            place = None if name.startswith("_") else self._stands()
            if place and name in place.aliases:
                section, key = place.aliases[name]
                return getattr(section, key)
            if place and name in place.constants:
                return place.constants[name]
            return super().__getattr__(name)

    def _stands(self) -> _Place:
        place: _Place | None = getattr(self, "_place", None)
        return place or _Place(type(self).__name__.upper(), {}, {})


class Settings(BaseModel):
    """Base of all configs: what is the same for every set of sections.

    Attributes:
        aliases: other names that settings are known by, and may be read and assigned by: SECTION.key of each.
        constants: what is always the same; a config may still name it, with this value.

    """

    model_config = ConfigDict(extra="forbid")
    aliases: ClassVar[Mapping[str, str]] = {}
    constants: ClassVar[Mapping[str, Any]] = {}

    def model_post_init(self, context: Any) -> None:
        sections: dict[str, Section] = {name: getattr(self, name) for name in type(self).model_fields}
        for name, section in sections.items():
            aliases = {}
            for key, target in _of(name, self.aliases).items():
                to, _, its_key = target.partition(".")
                aliases[key] = (sections[to], its_key)
            object.__setattr__(section, "_place", _Place(name, aliases, _of(name, self.constants)))

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        copied = super().__deepcopy__(memo)
        copied.model_post_init(None)  # its sections' aliases mean its own sections
        return copied

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in type(self).model_fields:
            raise ConfigError(f"config.{name[:_SHOWN]} is no section{_nearest(name, list(type(self).model_fields))}")
        raise ConfigError(f"config.{name} is a section; assign its settings one by one: config.{name}.key = value")

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
            raise ConfigError(f"{assignment[:_SHOWN]!r}: expected SECTION.key=value, for example {_example(self)}")
        if section not in type(self).model_fields:
            nearest = _nearest(section, list(type(self).model_fields))
            raise ConfigError(f"{assignment[:_SHOWN]!r}: {section[:_SHOWN]} is no section{nearest}")
        try:
            setattr(getattr(self, section), key, text.strip())
        except ConfigError as error:
            raise ConfigError(f"{assignment[:_SHOWN]!r}: {error}") from None

    def assign(self, sections: Mapping[str, Mapping[str, Any]]) -> None:
        """Assigns values by section and key, as `config.json` has them; raises ConfigError as an assignment does."""
        for section, values in sections.items():
            if section not in type(self).model_fields:
                nearest = _nearest(str(section), list(type(self).model_fields))
                raise ConfigError(f"{section[:_SHOWN]!r} is no section{nearest}")
            if not isinstance(values, Mapping):
                raise ConfigError(f"{section} must hold settings by name, got {values!r:.80}")
            for key, value in values.items():
                setattr(getattr(self, section), key, value)

    def check(self) -> None:
        """Raises ConfigError where settings that are fine alone do not go together."""

    def immaterial(self, begun: Collection[str]) -> set[str]:
        """The settings, as SECTION.key, that are marked `Immaterial` and, as the others stand, are.

        Args:
            begun: stages of a run; all that concerns only others counts too.

        """
        found = set()
        for name, section in self:
            to_come = bool(section.concerns) and not set(begun).intersection(section.concerns)
            for key, field in type(section).model_fields.items():
                marks = [mark for mark in field.metadata if isinstance(mark, Immaterial)]
                if to_come or (marks and not any(mark.unless and self._is(*mark.unless) for mark in marks)):
                    found.add(f"{name}.{key}")
        return found

    def _is(self, setting: str, value: Any) -> bool:
        section, _, key = setting.partition(".")
        return bool(getattr(getattr(self, section), key) == value)


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
        sections = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=_each_once)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file}:{error.lineno}: {error.msg}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: cannot be read as JSON ({error})") from error
    if not isinstance(sections, dict) or not isinstance(sections.get("config", sections), dict):
        raise ConfigError(f'{file}: expected {{"SECTION": {{"key": value}}}}, or the config.json of a run')
    config = kind()
    try:
        config.assign(sections.get("config", sections))
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error
    return config


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; ValueError where a name stands in it twice."""
    if (twice := repeated(pairs)) is not None:
        raise ValueError(f"{twice[:_SHOWN]!r} stands in one object twice; leave one out")
    return dict(pairs)


def _of(section: str, by_name: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a section, by key."""
    return {name.partition(".")[2]: value for name, value in by_name.items() if name.startswith(f"{section}.")}


def _as_declared(value: Any, annotation: Any) -> Any:
    """Lists become the declared tuples; text from a command line becomes the declared number, list or mapping."""
    kinds = _kinds(annotation)
    if isinstance(value, str) and kinds != [str] and Literal not in kinds:
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            if kinds == [tuple] or (tuple in kinds and "," in value):
                value = tuple(part.strip() for part in value.split(",") if part.strip())
    if isinstance(value, list) and tuple in kinds and list not in kinds:
        return tuple(value)
    return (value,) if kinds == [tuple] and not isinstance(value, tuple) else value


def _kinds(annotation: Any) -> list[Any]:
    """What a value may be: `[float, tuple]` of `Annotated[float, ...] | tuple[float, ...]`."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [kind for part in get_args(annotation) for kind in _kinds(part)]
    return [origin or annotation]


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
    return f"{name}: {' or '.join(messages)}; got {repr(problems[0]['input'])[:_SHOWN]}"
