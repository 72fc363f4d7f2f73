import errno
import json
import multiprocessing
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lib.errors import ConfigError, DataError, ModelError
from lib.files import (
    create_json,
    is_left_half_written,
    read_json,
    read_own,
    replacing,
    require_ending,
    require_output,
    require_output_folder,
    sha256,
    strangers,
    write_json,
    write_text,
)


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


def test_what_a_files_name_has_to_end_in_is_said(tmp_path: Path) -> None:
    require_ending(tmp_path / "a.b.png", ".jpg", ".png")
    for name in ("a", "a.PNG", "png", ".png", "a.png.part"):
        with pytest.raises(ModelError, match=rf"{re.escape(name)}: expected a name ending in \.jpg or \.png"):
            require_ending(tmp_path / name, ".jpg", ".png")


def test_what_cannot_be_an_output_is_said(tmp_path: Path) -> None:
    given, other = tmp_path / "given.keras", tmp_path / "other.keras"
    given.touch()
    other.touch()
    (tmp_path / "linked.keras").symlink_to(given)
    (tmp_path / "same.keras").hardlink_to(given)
    (tmp_path / "folder.keras").mkdir()
    for path in (other, tmp_path / "folder.keras/new.keras"):
        require_output(path, ".keras", others=[given, None, tmp_path / "absent.keras", ""])
    require_output(other)
    for name in ("given.keras", "folder.keras/../given.keras", "linked.keras", "same.keras"):
        with pytest.raises(ConfigError, match=r"would replace .*/given\.keras"):
            require_output(tmp_path / name, ".keras", others=[other, given])
    with pytest.raises(ConfigError, match=r"new\.keras: would replace .*new\.keras"):
        require_output(tmp_path / "new.keras", others=[tmp_path / "new.keras"])
    with pytest.raises(ConfigError, match=r"folder\.keras: a folder"):
        require_output(tmp_path / "folder.keras", ".keras")
    with pytest.raises(ModelError, match=r"expected a name ending in \.keras"):
        require_output(tmp_path / "a.pb", ".keras")


def test_a_folder_for_outputs_need_not_exist_but_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in (".", "new/deep"):
        require_output_folder(tmp_path / name)
    with pytest.raises(ConfigError, match="file: no folder"):
        require_output_folder(tmp_path / "file")


def test_a_tilde_that_the_shell_left_is_refused() -> None:
    for name in ("~/x.keras", "~user/x.keras"):
        with pytest.raises(ConfigError, match=f"{name}: ~ is not the home folder here"):
            require_output(name, ".keras")
        with pytest.raises(ConfigError, match="leave the = away"):
            require_output_folder(name)
    require_output("a~/x.keras", ".keras")


def test_what_cannot_be_replaced_is_named_by_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(OSError) as caught:
        write_text(tmp_path / "a.txt", "x")
    assert caught.value.filename == str(tmp_path / "a.txt")
    assert caught.value.filename2 is None
    assert list(tmp_path.iterdir()) == [tmp_path / "a.txt"]


def test_json_round_trip_and_no_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": [1, 2.5, None]})
    assert read_json(tmp_path / "a.json") == {"a": [1, 2.5, None]}
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1, 2.5, None]}


def test_json_that_is_nested_too_deeply_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("hard_links", [True, False])
def test_a_file_is_created_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hard_links: bool) -> None:
    if not hard_links:

        def refuse(*_: object) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(Path, "hardlink_to", refuse)
    file = tmp_path / "deep" / "a.json"
    assert create_json(file, 1)
    assert not create_json(file, 2)
    assert read_json(file) == 1
    assert list(file.parent.iterdir()) == [file]


def _race(folder: Path, number: int, start: Any, wins: Any) -> None:
    for turn in range(100):
        start.wait()
        if create_json(folder / f"{turn}.json", number):
            wins[turn] += 1
        write_json(folder / "shared.json", [number] * 1000)


def test_processes_race_for_a_file_and_one_creates_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start, wins = context.Barrier(2), context.Array("i", 100)
    processes = [context.Process(target=_race, args=(tmp_path, number, start, wins)) for number in (1, 2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0]
    assert wins[:] == [1] * 100
    assert len(set(read_json(tmp_path / "shared.json"))) == 1
    assert len(list(tmp_path.iterdir())) == 101


def test_two_write_aside_under_different_names(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.txt") as one, replacing(tmp_path / "a.txt") as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "a.txt").read_text() == "one"


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


def test_names_that_are_no_text_are_written_as_they_are(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    write_text(tmp_path / name, name)
    assert (tmp_path / name).read_bytes() == b"caf\xe9.jpg"


@dataclass(frozen=True)
class _Own:
    names: tuple[str, ...]
    share: float
    more: dict[str, list[int]]


def test_our_own_files_are_read_by_their_type(tmp_path: Path) -> None:
    content = {"names": ["a"], "share": 1, "more": {"b": [3]}}
    write_json(tmp_path / "a.json", content)
    assert read_own(tmp_path / "a.json", _Own, DataError, "mend it") == _Own(("a",), 1.0, {"b": [3]})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("", "Expecting value"),
        ('{"names": ["a"', "Expecting"),
        ("[]", "its content: "),
        ('{"names": ["a"], "share": 1}', "more: Field required"),
        ('{"names": ["a"], "share": "1", "more": {}}', "share: Input should be a valid number"),
        ('{"names": "a", "share": 1, "more": {}}', "names: Input should be a valid"),
        ('{"names": [], "share": 1, "more": {"b": [true]}}', r"more\.b\.0: Input should be a valid integer"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_what_is_not_ours_is_named_with_the_remedy(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=rf"a\.json: not as it was written \(.*{message}.*\); mend it"):
        read_own(tmp_path / "a.json", _Own, DataError, "mend it")
