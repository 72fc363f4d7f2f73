"""What the entry points share: logging to the console, errors without tracebacks, progress on one line."""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lib.errors import ToolkitError


def start_logging() -> None:
    """Shows this toolkit's messages on stderr, hides TensorFlow's start-up notes. To call before importing Keras."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("absl").setLevel(logging.ERROR)


@contextmanager
def friendly_errors(when_interrupted: str = "interrupted") -> Iterator[None]:
    """Turns a ToolkitError into its message on stderr and status 2, Ctrl-C into `when_interrupted` and status 130."""
    try:
        yield
    except ToolkitError as error:
        sys.exit(_exit(f"error: {error}", 2))
    except KeyboardInterrupt:
        sys.exit(_exit(when_interrupted, 130))


def _exit(message: str, status: int) -> int:
    sys.stderr.write(f"{message}\n")
    return status


def progress_bar(label: str) -> Callable[[int, int], None]:
    """A function of (done, in all) that keeps one line of stderr up to date: images/s and the time left."""
    started = time.monotonic()
    live = sys.stderr.isatty()

    def show(done: int, total: int) -> None:
        if not (live or done == total):
            return
        rate = done / max(time.monotonic() - started, 1e-9)
        end = "\n" if done == total else ""
        sys.stderr.write(f"\r{label}: {done}/{total} images, {rate:.1f}/s, {(total - done) / rate:.0f} s left {end}")
        sys.stderr.flush()

    return show
