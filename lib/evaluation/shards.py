"""One result folder, predicted in shards: which images are whose, and which shards are still to come.

While a folder is made in shards, `shard_2_of_8.json` says of each that was begun whether it is done. A run without
shards predicts what is left and removes these files; then the folder is the same as if there had been none.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from lib.errors import ConfigError, DataError
from lib.files import read_own, typed, write_json

Item = TypeVar("Item")
_NAME = re.compile(r"shard_(\d{1,6})_of_(\d{1,6})\.json")


@dataclass(frozen=True)
class _Record:
    """Of a shard that was begun: whether it is done, and a hash of all images' names."""

    done: bool
    images: str


@dataclass(frozen=True)
class Shard:
    """Every `count`-th image, from the `number`-th on, counted from 1; 1 of 1 is all."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """`2/8` -> the second of eight; ConfigError for anything else."""
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise ConfigError(f"--shard {text}: expected NUMBER/COUNT, from 1/8 to 8/8 for eight shards")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def of(self, items: Sequence[Item]) -> list[Item]:
        """Those that are this shard's."""
        return list(items[self.number - 1 :: self.count])

    def begin(self, folder: str | os.PathLike[str], names: Sequence[str]) -> None:
        """Notes that the shard is being made.

        Args:
            folder: the result folder.
            names: of all images, of which the shard is a part.

        Raises:
            DataError: the folder was begun in another number of shards, or with other images.

        """
        if self.count == 1:
            return
        digest = _digest(names)
        for other, record in _records(folder).items():
            if other.count != self.count:
                raise DataError(
                    f"{folder}: begun in {other.count} shards, this is --shard {self}; go on in {other.count}, or "
                    "predict what is left without --shard"
                )
            if record.images != digest:
                raise DataError(
                    f"{folder}: --shard {other} was predicted on other images than --shard {self} now finds "
                    f"({len(names)}); give all shards the same --data_dir and --annotation, or choose another --result"
                )
        self._note(folder, _Record(False, digest))

    def end(self, folder: str | os.PathLike[str], names: Sequence[str]) -> None:
        """Notes that the shard is done; once all images are, there are no shards any more."""
        if self.count > 1:
            self._note(folder, _Record(True, _digest(names)))
            return
        for other, record in _records(folder).items():
            if record.images == _digest(names):
                other._file(folder).unlink(missing_ok=True)

    def _note(self, folder: str | os.PathLike[str], record: _Record) -> None:
        write_json(self._file(folder), asdict(record))

    def _file(self, folder: str | os.PathLike[str]) -> Path:
        return Path(folder) / f"shard_{self.number}_of_{self.count}.json"


def missing_shards(folder: str | os.PathLike[str]) -> list[Shard]:
    """The shards that a result folder was to have and that are not done; [] where all are, or there are none."""
    return _not_done(_records(folder))


def missing_shards_in(
    names: Iterable[str], read: Callable[[str], bytes | None], source: str | os.PathLike[str]
) -> list[Shard]:
    """The same of a folder that was packed.

    Args:
        names: of the packed files, in the folder; others than shards' are left alone.
        read: gives a file's content.
        source: the archive, for messages.

    Raises:
        DataError: a shard's file is not as it was written.

    """
    records = {}
    for name in names:
        if shard := _named(name):
            try:
                records[shard] = typed(_Record, json.loads(read(name) or b""))
            except (ValueError, RecursionError) as problem:
                raise DataError(
                    f"{source}: {name} is not as it was written ({str(problem)[:200]}); predict shard {shard} again, "
                    "and pack the folder then"
                ) from problem
    return _not_done(records)


def _not_done(records: Mapping[Shard, _Record]) -> list[Shard]:
    counts = {shard.count for shard in records}
    every = [Shard(number + 1, count) for count in sorted(counts) for number in range(count)]
    return [shard for shard in every if shard not in records or not records[shard].done]


def _records(folder: str | os.PathLike[str]) -> dict[Shard, _Record]:
    records = {}
    for file in Path(folder).glob("shard_*_of_*.json"):
        if (shard := _named(file.name)) and file.is_file():
            records[shard] = read_own(file, _Record, DataError, "remove it, and predict this shard again")
    return records


def _named(name: str) -> Shard | None:
    """The shard that a file of this name is about; None: it is no such file."""
    found = _NAME.fullmatch(name)
    return Shard(int(found[1]), int(found[2])) if found else None


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(names).encode(errors="surrogateescape")).hexdigest()
