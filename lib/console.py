"""What the entry points share: logging to the console, errors without tracebacks, progress on one line."""

import argparse
import io
import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, Protocol

from lib.errors import ToolkitError

_NATIVE_NOTE = re.compile(r"WARNING: All log messages before absl::|[IW]\d{4} \d\d:\d\d:")


def start_logging() -> None:
    """Shows this toolkit's messages on stderr, hides TensorFlow's start-up notes. To call before importing Keras.

    With TF_CPP_MIN_LOG_LEVEL set, they are shown as it says.
    """
    if "TF_CPP_MIN_LOG_LEVEL" not in os.environ:
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
        sys.meta_path.insert(0, _QuietImports())
    for stream in (sys.stdout, sys.stderr):  # names of files may be no text at all
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("absl").setLevel(logging.ERROR)
    logging.getLogger("tensorflow").setLevel(logging.WARNING)  # it tells of every export


class _QuietImports(MetaPathFinder):
    """Keeps to themselves what native libraries note while they are loaded, which no setting of theirs does."""

    names = frozenset({"tensorflow", "ai_edge_litert", "tensorflow_model_optimization"})

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname in self.names else None
        if spec and spec.loader:
            load = spec.loader.exec_module

            def load_quietly(module: ModuleType) -> None:
                with without_native_notes():
                    load(module)

            spec.loader.exec_module = load_quietly  # type: ignore[method-assign]
        return spec


@contextmanager
def without_native_notes() -> Iterator[None]:
    """Leaves out what native code notes on stderr meanwhile; all other lines appear at the end."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with tempfile.TemporaryFile() as aside:
            os.dup2(aside.fileno(), 2)
            try:
                yield
            finally:
                sys.stderr.flush()
                os.dup2(kept, 2)
                aside.seek(0)
                for line in aside.read().decode(errors="replace").splitlines(keepends=True):
                    if not _NATIVE_NOTE.match(line):
                        os.write(2, line.encode())
    finally:
        os.close(kept)


@contextmanager
def friendly_errors(when_interrupted: str = "interrupted") -> Iterator[None]:
    """Turns errors that a user can mend into their message on stderr and status 2.

    These are ToolkitErrors, and files that cannot be read or written. Ctrl-C becomes `when_interrupted` and status 130.
    """
    try:
        yield
    except ToolkitError as error:
        sys.exit(_exit(f"error: {error}", 2))
    except OSError as error:
        if error.errno is None:
            raise
        sys.exit(_exit(f"error: {error.filename or 'a file'}: {error.strerror}", 2))
    except KeyboardInterrupt:
        sys.exit(_exit(when_interrupted, 130))


def _exit(message: str, status: int) -> int:
    sys.stderr.write(f"{message}\n")
    return status


def whole_number(least: int, most: int = 2**31 - 1) -> Callable[[str], int]:
    """A `type` for argparse: whole numbers from `least` to `most`."""

    def convert(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            shown = text if len(text) <= 20 else f"{text[:20]}..."
            raise argparse.ArgumentTypeError(f"expected a whole number from {least} to {most:,}, got {shown}")
        return number

    return convert


_SECONDS_BETWEEN_LINES = 60  # where stderr is a file, not a terminal


class ProgressLine(Protocol):
    """What `progress_bar` returns."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


def progress_bar(label: str) -> ProgressLine:
    """A function of (images done, in all, note) that shows images/s, the time left and the note on stderr.

    In a terminal it keeps one line up to date; elsewhere it writes a line a minute and one at the end.
    """
    started = shown = time.monotonic()
    live = sys.stderr.isatty()

    def show(done: int, total: int, note: str = "") -> None:
        nonlocal shown
        now = time.monotonic()
        if not live and done < total and now - shown < _SECONDS_BETWEEN_LINES:
            return
        shown = now
        rate = done / max(now - started, 1e-9)
        start, end = ("\r\033[K", "\n" if done == total else "") if live else ("", "\n")
        left = _duration((total - done) / rate) if done else "unknown time"
        more = f", {note}" if note else ""
        sys.stderr.write(f"{start}{label}: {done}/{total} images, {rate:.1f}/s, {left} left{more} {end}")
        sys.stderr.flush()

    return show


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
