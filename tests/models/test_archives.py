import zipfile
from pathlib import Path

import pytest

from lib.errors import ModelError
from lib.models.archives import ALWAYS_BYTES, MAX_DESCRIPTION_BYTES, require_no_bomb


def _packed(file: Path, members: dict[str, int]) -> zipfile.ZipFile:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, size in members.items():
            archive.writestr(name, bytes(size))
    return zipfile.ZipFile(file)


def test_what_unpacks_to_far_more_is_refused_by_what_it_says(tmp_path: Path) -> None:
    with _packed(tmp_path / "a.zip", {"config.json": 9, "weights": ALWAYS_BYTES // 2}) as archive:
        assert require_no_bomb(archive, tmp_path / "a.zip", "config.json") > ALWAYS_BYTES
    with (
        _packed(tmp_path / "b.zip", {"config.json": 9, "weights": 2 * ALWAYS_BYTES}) as archive,
        pytest.raises(ModelError, match=r"b\.zip: says that it unpacks to 134,217,737 bytes"),
    ):
        require_no_bomb(archive, tmp_path / "b.zip", "config.json")


def test_a_long_description_is_refused(tmp_path: Path) -> None:
    with (
        _packed(tmp_path / "a.zip", {"config.json": MAX_DESCRIPTION_BYTES + 1}) as archive,
        pytest.raises(ModelError, match=r"config\.json has 16,777,217 bytes"),
    ):
        require_no_bomb(archive, tmp_path / "a.zip", "config.json")
