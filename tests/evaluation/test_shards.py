from pathlib import Path

import pytest

from lib.errors import ConfigError, DataError
from lib.evaluation.shards import Shard, missing_shards

NAMES = [f"{number}.jpg" for number in range(20)]


def test_shards_are_read_from_text() -> None:
    assert Shard.parse("2/8") == Shard(2, 8)
    assert str(Shard(2, 8)) == "2/8"
    for text in ("", "2", "0/8", "9/8", "a/8", "1/0", "-1/8", "2/8/3", "1.0/2"):
        with pytest.raises(ConfigError, match=f"--shard {text}: expected NUMBER/COUNT"):
            Shard.parse(text)


@pytest.mark.parametrize("count", [1, 2, 8, 20, 30])
def test_shards_share_all_items_evenly(count: int) -> None:
    parts = [Shard(number + 1, count).of(NAMES) for number in range(count)]
    assert sorted(name for part in parts for name in part) == sorted(NAMES)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_what_is_not_done_is_missing(tmp_path: Path) -> None:
    assert missing_shards(tmp_path) == []
    Shard(2, 3).begin(tmp_path, NAMES)
    assert missing_shards(tmp_path) == [Shard(1, 3), Shard(2, 3), Shard(3, 3)]
    for number in (2, 1):
        Shard(number, 3).end(tmp_path, NAMES)
    assert missing_shards(tmp_path) == [Shard(3, 3)]
    Shard(3, 3).end(tmp_path, NAMES)
    assert missing_shards(tmp_path) == []


def test_a_run_without_shards_ends_them(tmp_path: Path) -> None:
    Shard(2, 3).end(tmp_path, NAMES)
    Shard().begin(tmp_path, NAMES[:5])
    Shard().end(tmp_path, NAMES[:5])  # of a part of the images: the others may still be missing
    assert missing_shards(tmp_path) == [Shard(1, 3), Shard(3, 3)]
    Shard().end(tmp_path, NAMES)
    assert list(tmp_path.iterdir()) == []


def test_shards_of_another_division_are_refused(tmp_path: Path) -> None:
    Shard(2, 3).begin(tmp_path, NAMES)
    with pytest.raises(DataError, match=r"begun in 3 shards, this is --shard 1/4; go on in 3"):
        Shard(1, 4).begin(tmp_path, NAMES)
    with pytest.raises(DataError, match=r"--shard 2/3 was predicted on other images than --shard 1/3 now finds \(19\)"):
        Shard(1, 3).begin(tmp_path, NAMES[1:])
    assert [file.name for file in tmp_path.iterdir()] == ["shard_2_of_3.json"]


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "shard_1_of_3.json").write_text("{}")
    with pytest.raises(DataError, match=r"shard_1_of_3.json: not as it was written .*; remove it, and predict"):
        missing_shards(tmp_path)
