import json
from pathlib import Path

import pytest

from lib.files import read_json, replacing, sha256, write_json, write_text


def test_file_is_whole_or_absent(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "a.txt"
    with pytest.raises(RuntimeError), replacing(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert list(target.parent.iterdir()) == []
    write_text(target, "whole")
    with pytest.raises(RuntimeError), replacing(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]


def test_temporary_name_keeps_the_suffix(tmp_path: Path) -> None:
    with replacing(tmp_path / "model.keras") as temporary:
        assert temporary.suffix == ".keras"
        temporary.touch()


def test_json_round_trip_and_no_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": [1, 2.5, None]})
    assert read_json(tmp_path / "a.json") == {"a": [1, 2.5, None]}
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1, 2.5, None]}


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert sha256(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
