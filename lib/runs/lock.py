"""One process a run folder: who holds its lock works in it. The system takes the lock from a process that dies."""

import fcntl
import os
import platform
from pathlib import Path
from typing import IO, ClassVar
from weakref import WeakValueDictionary

from lib.errors import TrainingError

NAME = ".lock"


class FolderLock:
    """The lock of a folder, held until the last reference to it is gone; within a process it may be asked for again."""

    _held: ClassVar[WeakValueDictionary[tuple[int, int], "FolderLock"]] = WeakValueDictionary()

    def __init__(self, file: IO[str]) -> None:
        self._file = file  # closed, and thereby unlocked, together with this

    @classmethod
    def take(cls, folder: Path) -> "FolderLock":
        """Takes the lock of an existing folder.

        Raises:
            TrainingError: another process holds it.
            OSError: the folder cannot be written.

        """
        path = folder / NAME
        file = path.open("a+", encoding="utf-8")
        status = os.fstat(file.fileno())
        key = (status.st_dev, status.st_ino)
        if (ours := cls._held.get(key)) is not None:
            file.close()
            return ours
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(200).strip() or "unknown"
            file.close()
            raise TrainingError(
                f"{folder}: another process works in it ({holder}); wait for its end, or choose another "
                "MODEL.model_path"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        lock = cls(file)
        cls._held[key] = lock
        return lock
