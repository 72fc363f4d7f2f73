import zipfile
from pathlib import Path

import pytest

from lib.errors import ModelError
from lib.limits import Limits, allowing
from lib.models.archives import require_no_bomb

DEFAULT = Limits()


def _packed(file: Path, members: dict[str, int]) -> zipfile.ZipFile:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, size in members.items():
            archive.writestr(name, bytes(size))
    return zipfile.ZipFile(file)


def test_what_unpacks_to_far_more_is_refused_by_what_it_says(tmp_path: Path) -> None:
    with _packed(tmp_path / "a.zip", {"config.json": 9, "weights": DEFAULT.max_unpacked_bytes // 2}) as archive:
        assert require_no_bomb(archive, tmp_path / "a.zip", "config.json") > DEFAULT.max_tensor_bytes
    with (
        _packed(tmp_path / "b.zip", {"config.json": 9, "weights": 2 * DEFAULT.max_unpacked_bytes}) as archive,
        pytest.raises(ModelError, match=r"b\.zip: says that it unpacks to 134,217,737 bytes"),
    ):
        require_no_bomb(archive, tmp_path / "b.zip", "config.json")


def test_a_long_description_is_refused(tmp_path: Path) -> None:
    with (
        _packed(tmp_path / "a.zip", {"config.json": DEFAULT.max_description_bytes + 1}) as archive,
        pytest.raises(ModelError, match=r"config\.json has 16,777,217 bytes"),
    ):
        require_no_bomb(archive, tmp_path / "a.zip", "config.json")


@pytest.mark.parametrize("name", ["max_unpacked_bytes", "max_description_bytes"])
def test_limits_are_settings_that_their_messages_name(tmp_path: Path, name: str) -> None:
    with _packed(tmp_path / "a.zip", {"config.json": 10_000}) as archive:
        with allowing(**{name: 1000}), pytest.raises(ModelError, match=rf"raise LIMITS\.{name} in the config"):
            require_no_bomb(archive, tmp_path / "a.zip", "config.json")
        with allowing(**{name: 10_000}, max_tensor_bytes=1):
            allowed = require_no_bomb(archive, tmp_path / "a.zip", "config.json")
    assert allowed == 1 + 4 * (tmp_path / "a.zip").stat().st_size
