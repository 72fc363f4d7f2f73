import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from lib.arrays import FloatArray
from lib.data.images import read_rgb, write_rgb
from lib.detection import FaceDetector
from lib.detection.formats import onnx
from lib.models import build, save
from lib.models.yunet import yunet
from lib.pruning import plan, shrink
from tests.detectors import golden_images, published_detector, small_detector
from tests.matching import unmatched
from tests.networks import lively
from tests.shared import ROOT, shared
from tools.export import main


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    save(small_detector(channels=4), tmp_path / "model.keras")
    return tmp_path / "model.keras"


def test_writes_checks_and_tells(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], rng: np.random.Generator
) -> None:
    for number in range(2):
        write_rgb(tmp_path / f"photos/{number}.png", rng.integers(0, 256, (40, 60, 3), np.uint8))
    command = [f"--model={checkpoint}", f"--output={tmp_path}/out", "--formats=litert,onnx", "--precision=float32,int8"]
    assert main([*command, "--size=64x96", f"--images={tmp_path}/photos", "--rounds=1", "--check"]) == 0
    printed = capsys.readouterr().out
    assert "PRUNE.channel_divisor=8" in printed
    rows = json.loads((tmp_path / "out/export.json").read_text())["rows"]
    assert [(row["format"], row["precision"]) for row in rows] == [
        ("original", "float32"),
        ("litert", "float32"),
        ("litert", "int8"),
        ("onnx", "float32"),
    ]
    for row in rows[1:]:
        assert (tmp_path / "out" / row["file"]).stat().st_size == row["bytes"]
        assert f"{row['bytes']:,}" in printed


def test_a_yunet_goes_to_opencv_and_is_compared_there(tmp_path: Path) -> None:
    save(lively(yunet(stages=(4, 6, 8, 6, 4, 8)), np.random.default_rng(1), side_px=96), tmp_path / "model.keras")
    command = [f"--model={tmp_path}/model.keras", f"--output={tmp_path}/out", "--formats=opencv,onnx", "--rounds=1"]
    assert main([*command, "--size=96x128", "--compared_images=2", "--check"]) == 0
    rows = json.loads((tmp_path / "out/export.json").read_text())["rows"]
    assert [row["file"] for row in rows[1:]] == ["detector_opencv.onnx", "detector.onnx"]
    assert rows[0]["detections"] > 0
    assert all(row["changed"] == 0 for row in rows)


def test_the_example_without_keras_prints_the_same_boxes(
    checkpoint: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    command = [f"--model={checkpoint}", f"--output={tmp_path}/out", "--formats=onnx", "--any_size", "--rounds=1"]
    assert main(command) == 0
    image = rng.integers(0, 256, (70, 90, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "image.png"), image[..., ::-1])
    found = _printed_by_the_example(tmp_path / "out/detector.onnx", tmp_path / "image.png")
    found, expected = (boxes[boxes[:, 4] > 0.501] for boxes in (found, FaceDetector(checkpoint)(image, 0.5)))
    assert len(expected) > 0
    assert unmatched(found, expected, iou=0.97) == []  # it prints tenths of pixels


@pytest.mark.slow
@pytest.mark.parametrize("network", ["whole", "pruned", "yunet"])
def test_the_example_finds_published_networks_faces(network: str, tmp_path: Path) -> None:
    if network == "yunet":
        model = build("yunet_n", weights=shared("weights/yunet/yunet_n.pth"))
    else:
        model = published_detector("eresfd/eresfd_16.pth")
    if network == "pruned":
        model = shrink(model, plan(model, 0.0626))
    onnx.write(model, tmp_path / "detector.onnx")
    original, faces = FaceDetector(model), 0
    for path in golden_images():
        cv2.imwrite(str(tmp_path / "image.png"), read_rgb(path)[..., ::-1])
        found = _printed_by_the_example(tmp_path / "detector.onnx", tmp_path / "image.png")
        expected = original(read_rgb(path), 0.5)
        found, expected = (boxes[np.abs(boxes[:, 4] - 0.5) > 1e-3] for boxes in (found, expected))
        assert len(found) == len(expected)
        for box in expected:  # it prints tenths of pixels
            apart = np.abs(found - box)
            assert (apart[:, :4].max(axis=1) + 50 * apart[:, 4]).min() < 0.1
        faces += len(expected)
    assert faces > 20


def test_the_model_itself_is_not_replaced(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = checkpoint.parent
    checkpoint = checkpoint.rename(folder / "detector.keras")
    before = checkpoint.read_bytes()
    with pytest.raises(SystemExit):
        main([f"--model={checkpoint}", f"--output={folder}", "--formats=pb,keras"])
    assert f"would replace {checkpoint}" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([f"--model={checkpoint}", f"--output={checkpoint}", "--formats=pb"])
    assert "detector.keras: no folder" in capsys.readouterr().err
    assert list(folder.iterdir()) == [checkpoint]
    assert checkpoint.read_bytes() == before


def _printed_by_the_example(model: Path, image: Path) -> FloatArray:
    """x1, y1, x2, y2, score of each face that the script without Keras prints."""
    command = [sys.executable, str(ROOT / "examples/python/detect_onnx.py"), str(model), str(image)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=image.parent)
    return np.array([line.split() for line in done.stdout.splitlines()], np.float32).reshape(-1, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size=640"], "expected height x width"),
        (["--size=8x8"], "16 to 8192"),
        (["--size=" + "9" * 5000 + "x99"], "--size " + "9" * 20 + ": expected height x width"),
        (["--compared_images=0"], "--compared_images: expected a whole number from 1"),
        (["--rounds=0"], "--rounds: expected a whole number from 1"),
        (["--seed=-1"], "--seed: expected a whole number from 0"),
        (["--precision=int8"], "int8 needs a fixed size and --images"),
        (["--precision=int16"], "10 to 20 times slower"),
        (["--formats=pt"], "no format is called 'pt'"),
        (["--val_annotations=a.txt"], "needs --val_images"),
    ],
)
def test_unfit_arguments_are_named(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([f"--model={checkpoint}", f"--output={checkpoint.parent}/out", *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
