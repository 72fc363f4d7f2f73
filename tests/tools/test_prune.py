import json
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from lib.data.images import write_rgb
from lib.models import build, load, save
from lib.pruning import apply_masks, channel_sets, plan
from lib.pruning.cost import count_parameters
from tests.detectors import small_detector
from tests.networks import lively
from tests.shared import shared
from tools.prune import main


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.keras"
    save(lively(small_detector(8), np.random.default_rng(0)), path)
    return path


def test_prunes_saves_and_proves_it(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rates = tmp_path / "rates.json"
    rates.write_text(json.dumps({"conv1": 0.5, "conv3": 0.25}))
    small, masked = tmp_path / "small.keras", tmp_path / "masked.keras"
    command = [f"--ckpt_path={checkpoint}", f"--rates={rates}", f"--output={small}", f"--masked={masked}"]
    assert main([*command, "--check", "--height=64", "--width=64"]) == 0
    printed = capsys.readouterr().out
    assert "the same in both models" in printed
    assert re.search(r"5 random inputs: largest difference \d", printed)
    left = count_parameters(load(small))
    assert re.search(rf"^\| sum .*\| +{left:,} \|", printed, re.MULTILINE)
    assert left < count_parameters(load(masked)) == count_parameters(load(checkpoint))
    assert [load(small).get_layer(name).filters for name in ("conv1", "conv2", "conv3")] == [4, 4, 6]


def test_whole_branches_go_where_no_channel_has_to_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(build("eresfd", width_mult=4 / 256), tmp_path / "model.keras")
    (tmp_path / "rates.json").write_text(json.dumps({"stage?_block1_conv1": 1}))
    command = [f"--ckpt_path={tmp_path}/model.keras", f"--rates={tmp_path}/rates.json", "--height=64", "--width=64"]
    assert main([*command, "--min_channels=0"]) == 0
    rows = re.findall(r"^\| stage\d_block1_conv1 .*$", capsys.readouterr().out, re.MULTILINE)
    assert [int(row.split("|")[4]) for row in rows] == [0] * 5


def test_takes_what_a_search_has_found(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for content in ({"conv1": 0.5}, {"rate": {"conv1": 0.5}, "target": 0.5}):
        (tmp_path / "rates.json").write_text(json.dumps(content))
        assert main([f"--ckpt_path={checkpoint}", f"--rates={tmp_path}/rates.json"]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert "sum" in printed[0]


def test_meets_a_budget(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = tmp_path / "small.keras"
    assert main([f"--ckpt_path={checkpoint}", "--parameters=0.5", "--scope=global", f"--output={small}"]) == 0
    left = count_parameters(load(small)) / count_parameters(load(checkpoint))
    assert 0.4 < left <= 0.5
    with pytest.raises(SystemExit):
        main([f"--ckpt_path={checkpoint}", "--macs=0.0001"])
    assert "macs=0.0001 cannot be met" in capsys.readouterr().err


def test_explains_what_can_go(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"--ckpt_path={checkpoint}", "--explain", f"--dot={tmp_path}/m.dot", "--protected=conv2"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^conv3: 8 channels can go, each with .* MACs; made by conv3", printed, re.MULTILINE)
    assert "channels stay: conv2 is protected" in printed
    assert (tmp_path / "m.dot").read_text().startswith("digraph")


def test_says_what_of_the_zeros_can_go(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = load(checkpoint)
    masks = plan(model, 0.5, mode="per_layer")
    apply_masks(model, masks)
    save(model, tmp_path / "zeros.keras")
    assert main([f"--ckpt_path={tmp_path}/zeros.keras", "--zeros", "--check"]) == 0
    printed = capsys.readouterr().out
    assert f"{sum(map(len, masks.channels.values()))} filters are all zero" in printed
    tied = [name for item in channel_sets(model) if len(item.convolutions) > 1 for name in item.convolutions]
    alone = sum(len(off) for name, off in masks.channels.items() if name not in tied)
    removed = re.search(r"(\d+)  can be removed", printed)
    assert removed is not None
    assert int(removed.group(1)) >= alone > 0
    assert main([f"--ckpt_path={checkpoint}", "--rates=0.5", "--mode=per_layer", "--height=64", "--width=64"]) == 0
    assert removed.group(0) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rates=1.5"], "must be at least 0 and below 1"),
        (["--rates=missing.json"], "expected a number or a JSON file"),
        (["--rates=0.5", "--output=small.pb"], "expected a name ending in .keras"),
        (["--rates=0.5", "--opencv=small.pb"], "expected a name ending in .onnx"),
        (["--rates=0.5", "--height=0"], "--height: expected a whole number from 1"),
        (["--rates=0.5", "--width=-5"], "--width: expected a whole number from 1"),
        (["--rates=0.5", "--seed=-1"], "--seed: expected a whole number from 0"),
        (["--rates=0.5", "--criterion=size"], "no criterion is called 'size'"),
        (["--rates=0.5", "--protected", "con*", "odd*"], "no layer is called 'odd*'"),
    ],
)
def test_unfit_arguments_are_named(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([f"--ckpt_path={checkpoint}", *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "expected a number or a JSON file"),
        ('{"conv1": 0.5, "conv2": 0.1, "conv1": 0.1}', "'conv1' stands in it twice"),
        (json.dumps({f"a{number}": "x" * 500 for number in range(1000)}), 'expected {"pattern": rate, ...}, found {'),
    ],
)
def test_unfit_rates_are_named_in_short(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    (tmp_path / "rates.json").write_text(content)
    with pytest.raises(SystemExit) as stopped:
        main(["--ckpt_path=x", f"--rates={tmp_path}/rates.json"])
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert len(printed) < 600


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output=model.keras"], "model.keras: would replace model.keras"),
        (["--masked=./model.keras"], "would replace model.keras"),
        (["--output=a.keras", "--masked=a.keras"], "a.keras: would replace a.keras"),
        (["--dot=model.keras"], "expected a name ending in .dot or .gv"),
        (["--opencv=face.onnx", "--ckpt_path=face.onnx"], "would replace face.onnx"),
        (["--output=folder.keras"], "folder.keras: a folder"),
        (["--output=~/x.keras"], "~ is not the home folder here"),
    ],
)
def test_no_output_replaces_what_is_read(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(checkpoint, "model.keras")
    Path("folder.keras").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit):
        main(["--ckpt_path=model.keras", "--rates=0.5", *arguments])
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_no_output_replaces_a_runs_model(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lib.runs.folder.model_file", lambda _folder: checkpoint)
    with pytest.raises(SystemExit):
        main(["--ckpt_path=run", "--rates=0.5", f"--output={checkpoint}"])
    assert f"would replace {checkpoint}" in capsys.readouterr().err


def test_a_difference_is_a_failure(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: keras.Model, _masks: object) -> keras.Model:
        other = keras.models.clone_model(model)
        other.set_weights([0.9 * weight for weight in model.get_weights()])
        return other

    monkeypatch.setattr("lib.pruning.shrink", broken)
    assert main([f"--ckpt_path={checkpoint}", "--rates=0.2", "--check"]) == 1


def test_repairs_on_a_folder_of_photographs(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    for index in range(3):
        write_rgb(tmp_path / f"photos/inner/{index}.png", random.integers(0, 256, (24, 32, 3), np.uint8))
    (tmp_path / "photos/broken.jpg").write_bytes(b"no image")
    faces = tmp_path / "faces.txt"
    faces.write_text("inner/0.png\n1\n10 10 20 20\n")
    command = [f"--ckpt_path={checkpoint}", "--rates=0.25", f"--repair={tmp_path}/photos", f"--annotations={faces}"]
    assert main([*command, f"--output={tmp_path}/small.keras", "--height=64", "--width=64"]) == 0
    printed = capsys.readouterr().out
    assert "the same in both models" in printed
    assert "repaired on 3 images with 1 faces, 1 unreadable" in printed
    assert "broken.jpg" in printed
    assert "fewer positions than unknowns, held by the ridge alone: " in printed
    assert (tmp_path / "small.keras").exists()


def test_from_published_weights_to_a_file_for_opencv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnx", reason="writing ONNX files needs the package onnx")
    weights, output = shared("weights/yunet/yunet_s.pth"), tmp_path / "face.onnx"
    write_rgb(tmp_path / "photos/a.png", np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))
    command = [f"--ckpt_path={weights}", "--rates=0.25", f"--repair={tmp_path}/photos", f"--opencv={output}"]
    assert main([*command, "--height=64", "--width=64"]) == 0
    printed = capsys.readouterr().out
    assert "the same in both models" in printed
    assert f"{output}: {output.stat().st_size:,} bytes, loaded by OpenCV" in printed
    assert output.stat().st_size < shared("weights/yunet/yunet_n_dynamic.onnx").stat().st_size
