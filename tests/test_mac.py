import json
from pathlib import Path

import pytest

import mac
from lib.data.images import write_rgb
from lib.models import save
from tests.detection.test_drawing import grey
from tests.detectors import random_detector
from tests.shared import ROOT

CONFIG = f"--config={ROOT}/mac_config.py"


def test_prints_and_writes_the_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(random_detector(), tmp_path / "model.keras")
    write_rgb(tmp_path / "images" / "a.png", grey())
    write_rgb(tmp_path / "images" / "b.png", grey(64, 80))
    arguments = [CONFIG, f"--images={tmp_path}/images", f"--json={tmp_path}/out.json"]
    arguments += [f"MODEL.trained_model={tmp_path}/model.keras", "COST.hin=64", "DATA.win=96", "DATA.max_images=1"]
    assert mac.main(arguments) == 0
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "out.json").read_text())
    assert f"parameters: {report['parameters']:,}" in printed
    assert "MACs at 64x96" in printed and "by activations, mean of 1 images" in printed
    assert report["images"] == 1
    assert 0 < report["macs_on_images"] <= report["macs"]
    assert {row["name"] for row in report["layers"]} >= {"conv1", "head5_scores"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["MODEL.trained_model=missing.keras"], "missing.keras: no such file"),
        (["MODEL.trained_modle=x"], "did you mean trained_model?"),
        (["--json=model.keras"], "expected a name ending in .json"),
        (["COST.hin=0"], "greater than 0"),
        (["DATA.hin=0"], "DATA.hin, now COST.hin: input should be greater than 0"),
        (["TRAIN.epoch=3"], "TRAIN is no section"),
    ],
)
def test_bad_input_is_named(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        mac.main([CONFIG, *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_empty_image_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(random_detector(), tmp_path / "model.keras")
    (tmp_path / "images").mkdir()
    with pytest.raises(SystemExit):
        mac.main([CONFIG, f"MODEL.trained_model={tmp_path}/model.keras", f"--images={tmp_path}/images"])
    assert "no image in it" in capsys.readouterr().err


def test_limits_are_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(random_detector(), tmp_path / "model.keras")
    write_rgb(tmp_path / "images" / "a.png", grey(64, 80))
    arguments = [CONFIG, f"--images={tmp_path}/images", f"MODEL.trained_model={tmp_path}/model.keras", "COST.hin=64"]
    for setting in ("LIMITS.max_pixels=5119", "LIMITS.max_channels=1"):
        with pytest.raises(SystemExit):
            mac.main([*arguments, setting])
        assert f"raise {setting.partition('=')[0]} in the config" in capsys.readouterr().err
    assert mac.main([*arguments, "LIMITS.max_pixels=5120"]) == 0


def test_config_of_another_program_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        mac.main([f"--config={ROOT}/pruned_train_config.py"])
    assert "expected `config = MacConfig()`" in capsys.readouterr().err
