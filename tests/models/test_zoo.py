"""Weights by name; files take the network's place."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lib.errors import ModelError
from lib.files import sha256
from lib.models import build, load, zoo
from lib.models.published_yunet import assignments
from lib.runs.folder import model_file
from tests.pth_files import Tensor, write_pth
from tests.shared import shared

COMMIT = "0123456789abcdef"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published YuNet with weights of ours."""
    random, content = np.random.default_rng(0), {}
    for name, variable, _ in assignments(build("yunet_s"), {}):
        values = np.abs(random.normal(0, 0.1, variable.shape)).astype(np.float32)
        if values.ndim == 4:
            values = values.transpose((2, 3, 0, 1) if values.shape[3] == 1 and "conv2" in name else (3, 2, 0, 1))
        content[name] = Tensor.of(values)
    return write_pth(tmp_path_factory.mktemp("weights") / "small face.pth", content)


@pytest.fixture
def repository(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The published file, where "small" is fetched from; the cache is `tmp_path / keras`."""
    file = tmp_path / "net" / "some" / "body" / COMMIT / "Our Models" / "small face.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(weights.read_bytes())
    published = zoo.Published("some/body", COMMIT, "free for all", {"Our Models/small face.pth": sha256(weights)})
    monkeypatch.setattr(zoo, "ADDRESS", (tmp_path / "net").as_uri())
    monkeypatch.setattr(zoo, "PUBLISHED", {**zoo.PUBLISHED, "small": published})
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    yield file


def _cached() -> list[str]:
    return sorted(path.name for path in zoo.cache_folder().rglob("*"))


def test_weights_are_fetched_once(
    repository: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO):
        kept = zoo.located("small")
    assert f"some/body at {COMMIT}; licence: free for all" in caplog.text
    assert load(kept).name == "yunet_s"
    assert _cached() == ["small-0123456.keras"]
    repository.unlink()
    assert zoo.located("small") == model_file("small") == kept
    assert capsys.readouterr().out == ""


def test_without_a_network_the_message_says_what_to_put_where(repository: Path) -> None:
    content = repository.read_bytes()
    repository.unlink()
    place = (
        r"Our%20Models/small%20face.pth: cannot be fetched .*face_detectors:\n  small face.pth: file://.*%20face.pth"
    )
    with pytest.raises(ModelError, match=place):
        zoo.located("small")
    assert _cached() == []
    (zoo.cache_folder() / "small face.pth").write_bytes(content)
    assert load(zoo.located("small")).name == "yunet_s"


def test_every_file_that_is_needed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "ADDRESS", (tmp_path / "net").as_uri())
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    with pytest.raises(ModelError) as error:
        zoo.located("eresfd")
    for path in zoo.PUBLISHED["eresfd"].files:
        assert f"  {Path(path).name}: {zoo.PUBLISHED['eresfd'].address(path)}" in str(error.value)


@pytest.mark.parametrize("by_hand", [False, True])
def test_other_files_and_half_ones_are_refused(repository: Path, by_hand: bool) -> None:
    half = repository.read_bytes()[:1000]
    repository.write_bytes(half)
    if by_hand:
        zoo.cache_folder().mkdir(parents=True)
        (zoo.cache_folder() / "small face.pth").write_bytes(half)
    with pytest.raises(
        ModelError, match=r"1,000 bytes with SHA-256 .* expected .*" + ("remove it" if by_hand else "try")
    ):
        zoo.located("small")
    assert _cached() == (["small face.pth"] if by_hand else [])


@pytest.mark.usefixtures("repository")
def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "keras").write_text("no folder")
    with pytest.raises(ModelError, match=r"face_detectors: weights cannot be kept there .*KERAS_HOME"):
        zoo.located("small")


@pytest.mark.usefixtures("repository")
def test_a_cache_that_may_only_be_read_is_named(tmp_path: Path) -> None:
    cache = tmp_path / "keras" / "face_detectors"
    cache.mkdir(parents=True)
    cache.chmod(0o555)
    if os.access(cache, os.W_OK):
        pytest.skip("this user may write everywhere")
    with pytest.raises(ModelError, match=r"face_detectors: weights cannot be kept there \(Permission denied\)"):
        zoo.located("small")
    assert _cached() == []


@pytest.mark.usefixtures("repository")
def test_a_full_disk_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zoo, "save", full)
    with pytest.raises(ModelError, match="No space left on device"):
        zoo.located("small")
    assert _cached() == []


def test_unknown_names_and_paths() -> None:
    with pytest.raises(ModelError, match=r"eresfb: .* did you mean eresfd\?"):
        zoo.located("eresfb")
    assert zoo.located("models/eresfd") == Path("models/eresfd")
    assert zoo.located("eresfd.keras") == Path("eresfd.keras")


@pytest.mark.parametrize("name", zoo.PUBLISHED)
def test_the_hashes_are_those_of_the_published_files(name: str) -> None:
    folder = shared("weights") / ("bfpgm" if name.startswith("bfpgm") else name.partition("_")[0])
    for path, digest in zoo.PUBLISHED[name].files.items():
        assert sha256(folder / Path(path).name.replace("EREsFD", "EResFD")) == digest


def test_published_weights_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = zoo.PUBLISHED["eresfd"]
    folder = tmp_path / published.repository / published.commit
    folder.mkdir(parents=True)
    (folder / "weights").symlink_to(shared("weights/eresfd"))
    monkeypatch.setattr(zoo, "ADDRESS", tmp_path.as_uri())
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    assert load(zoo.located("eresfd")).name == "eresfd"
