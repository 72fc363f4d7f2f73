"""Files that are whole or absent: everything is written aside and renamed."""

import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from lib.errors import ConfigError, ModelError, ToolkitError


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary name beside `path`; on success the file there replaces `path`, otherwise it is removed.

    OSError names `path` where it cannot be replaced.
    """
    with _aside(path) as (temporary, final):
        yield temporary
        _sync(temporary)
        try:
            temporary.replace(final)
        except OSError as error:
            raise OSError(error.errno, error.strerror, os.fspath(final)) from error


@contextmanager
def _aside(path: str | os.PathLike[str]) -> Iterator[tuple[Path, Path]]:
    """A name beside `path` that is removed in the end, and `path` itself, whose folder is there."""
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    # Not the process' number: processes on several machines, which share the folder, may have the same.
    temporary = final.with_name(f".{final.stem}.{secrets.randbelow(10**12)}.part{final.suffix}")
    try:
        yield temporary, final
    finally:
        temporary.unlink(missing_ok=True)


def _sync(file: Path) -> None:
    with file.open("rb") as written:
        os.fsync(written.fileno())


def require_ending(path: str | os.PathLike[str], *endings: str) -> None:
    """ModelError unless the name of a file that is to be written ends in one of these, e.g. ".keras"."""
    if Path(path).suffix not in endings:
        raise ModelError(f"{os.fspath(path)}: expected a name ending in {' or '.join(endings)}")


def require_output(
    path: str | os.PathLike[str], *endings: str, others: Iterable[str | os.PathLike[str] | None] = ()
) -> None:
    """To be asked before the work whose result is to be written into a file.

    Args:
        endings: of its name, see `require_ending`; none: any.
        others: what is read, and what else is written; None is left out.

    Raises:
        ConfigError: it is a folder, begins with ~, or is one of the others, also by way of a link.
        ModelError: its name ends in something else.

    """
    _require_no_home(path)
    file = Path(path)
    if file.is_dir():
        raise ConfigError(f"{file}: a folder; expected the name of a file to write")
    if endings:
        require_ending(path, *endings)
    for other in others:
        if not other:
            continue
        if file.resolve() == Path(other).resolve() or (file.exists() and Path(other).exists() and file.samefile(other)):
            raise ConfigError(f"{file}: would replace {os.fspath(other)}, which is read or written too; name another")


def require_output_folder(path: str | os.PathLike[str]) -> None:
    """ConfigError where files cannot be written into `path`: it is a file, or begins with ~."""
    _require_no_home(path)
    if Path(path).exists() and not Path(path).is_dir():
        raise ConfigError(f"{os.fspath(path)}: no folder; expected one to write into, which need not exist")


def _require_no_home(path: str | os.PathLike[str]) -> None:
    # A shell leaves the ~ of --output=~/x as it is.
    if os.fspath(path).startswith("~"):
        raise ConfigError(f"{os.fspath(path)}: ~ is not the home folder here; write it out, or leave the = away")


# What `replacing` calls its file until it is whole.
_PART = re.compile(r"\.(?P<stem>.+)\.\d+\.part(?P<suffix>\.\w+)?")


def strangers(folder: str | os.PathLike[str], ours: str) -> list[Path]:
    """What lies in a folder, at any depth, and is not known to be ours; to be asked before anything there is touched.

    Args:
        folder: an existing one.
        ours: regular expression for the paths of our files, relative and with /.

    Returns:
        Sorted: files that do not match, links, what is neither file nor folder, folders that cannot be read. What a
        killed `replacing` left of a file of ours is ours. [] says that the whole content is.

    """
    root, found = Path(folder), list[Path]()
    for directory, folders, files in os.walk(root, onerror=lambda error: found.append(Path(error.filename))):
        for path in (Path(directory, name) for name in [*folders, *files]):
            name = path.relative_to(root).as_posix()
            known = path.is_dir() or (path.is_file() and (re.fullmatch(ours, name) or is_left_half_written(name, ours)))
            if path.is_symlink() or not known:
                found.append(path)
    return sorted(found)


def is_left_half_written(name: str, ours: str) -> bool:
    """Whether a relative path is what `replacing` writes before it is whole, of a file that `ours` matches."""
    folder, slash, file = name.rpartition("/")
    part = _PART.fullmatch(file)
    return bool(part and re.fullmatch(ours, f"{folder}{slash}{part['stem']}{part['suffix'] or ''}"))


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes UTF-8 text; the file is whole or absent."""
    with replacing(path) as temporary:
        # File names that are no UTF-8 are written as they are.
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Writes JSON; the file is whole or absent. ValueError for NaN, which JSON does not know."""
    write_text(path, _json(content))


def create_json(path: str | os.PathLike[str], content: Any) -> bool:
    """Writes JSON where there is no such file; False where there is. Of processes that race for it, one creates it."""
    with _aside(path) as (temporary, final):
        temporary.write_text(_json(content), encoding="utf-8")
        _sync(temporary)
        try:
            final.hardlink_to(temporary)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            if final.exists():
                return False
            temporary.replace(final)
    return True


def _json(content: Any) -> str:
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def read_json(path: str | os.PathLike[str]) -> Any:
    """What `write_json` wrote; ValueError where it is no JSON, or nested too deeply to be read."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"nested too deeply ({error})") from error


def repeated(pairs: Sequence[tuple[str, Any]]) -> str | None:
    """The first name that stands twice in an object of JSON, of which readers take the last; None: none does."""
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            return name
        seen.add(name)
    return None


def read_own(path: str | os.PathLike[str], kind: Any, error: type[ToolkitError], remedy: str) -> Any:
    """What `write_json` wrote into a file of ours, checked to be of a type.

    Args:
        kind: a type with its parts, such as `dict[str, list[int]]` or a dataclass; numbers and texts are not converted.
        error: what is raised.
        remedy: what to do then.

    Raises:
        error: the file is missing, cut short or holds something else; names file, place and remedy.

    """
    try:
        return typed(kind, read_json(path))
    except (OSError, ValueError, RecursionError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else str(problem)[:200]
        raise error(f"{path}: not as it was written ({reason}); {remedy}") from problem


def typed(kind: Any, content: Any) -> Any:
    """What JSON holds, as a type with its parts; ValueError where it is of another."""
    try:
        return TypeAdapter(kind).validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'its content'}: {first['msg']}") from None


def sha256(path: str | os.PathLike[str]) -> str:
    """Hex digest of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
