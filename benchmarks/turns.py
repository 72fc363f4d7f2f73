"""A process that does what it is told, a line at a time, so that several can be timed in turns."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


class Server:
    """A Python process that answers every line of its standard input with seconds.

    Args:
        arguments: of Python.
        environment: what is added to this process' own.
        folder: its working directory; None: this process' own.

    """

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], folder: Path | None = None) -> None:
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, *arguments],
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, line: str) -> None:
        """Writes a line that is not answered."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def turn(self, line: str = "") -> float:
        """Writes a line and returns the seconds in answer; ValueError where the process has ended."""
        self.tell(line)
        assert self._process.stdout is not None
        return float(self._process.stdout.readline())

    def end(self) -> None:
        """Ends the process."""
        self._process.kill()
