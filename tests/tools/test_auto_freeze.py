from pathlib import Path

import pytest

from lib.models import save
from tests.detectors import small_detector
from tools.auto_freeze import main


def test_writes_detector_pb_and_says_how_large(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(small_detector(), tmp_path / "model.keras")
    assert main([f"--ckpt_path={tmp_path}/model.keras", f"--output_path={tmp_path}/out", "--max_detections=9"]) == 0
    written = tmp_path / "out" / "detector.pb"
    printed = capsys.readouterr().out
    assert f"{written.stat().st_size:,} bytes" in printed and "nodes" in printed
    assert [path.name for path in written.parent.iterdir()] == ["detector.pb"]


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [("missing.keras", "no such file"), (".", "no run folder"), ("text.keras", "not a .keras model")],
)
def test_bad_checkpoint_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], checkpoint: str, message: str
) -> None:
    (tmp_path / "text.keras").write_text("no model")
    with pytest.raises(SystemExit) as stopped:
        main([f"--ckpt_path={tmp_path / checkpoint}", f"--output_path={tmp_path}/out"])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_unfit_threshold_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--ckpt_path=x", f"--output_path={tmp_path}", "--iou_threshold=3"])
    assert "iou_threshold must lie in 0..1, got 3" in capsys.readouterr().err
