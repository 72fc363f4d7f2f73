import json
from pathlib import Path

import pytest

from lib.files import is_left_half_written, read_json, replacing, sha256, strangers, write_json, write_text


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


def test_what_is_not_ours_is_found_at_any_depth(tmp_path: Path) -> None:
    ours = r"a\.json|deep/\d+\.txt"
    for name in ("a.json", "deep/1.txt", "deep/.2.77.part.txt", "empty/.keep"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty" / ".keep").unlink()
    assert strangers(tmp_path, ours) == []
    foreign = [tmp_path / name for name in (".a.77.part.txt", ".x.part.y", "b.json", "deep/a.json", "deep/one.txt")]
    for path in foreign:
        path.touch()
    (tmp_path / "deep" / "3.txt").symlink_to(tmp_path / "a.json")
    (tmp_path / "deep" / "link").symlink_to(tmp_path)
    assert strangers(tmp_path, ours) == sorted([*foreign, tmp_path / "deep" / "3.txt", tmp_path / "deep" / "link"])


def test_what_a_kill_leaves_is_known(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.b.json") as temporary:
        temporary.touch()
        assert is_left_half_written(temporary.name, r"a\.b\.json")
        assert not is_left_half_written(temporary.name, r"b\.json")
    assert not is_left_half_written("a.b.json", r"a\.b\.json")
