from pathlib import Path

import pytest

from lib.detection.formats.pb import DetectionSettings
from lib.errors import TrainingError
from lib.files import write_json
from lib.runs.report import making
from lib.runs.report.findings import Findings
from lib.runs.report.making import first_and_last, report_folders, report_run
from tools.report import main


def test_a_run_without_measuring_says_so(tmp_path: Path) -> None:
    page = report_run(tmp_path, None, DetectionSettings(), (64, 64)).read_text()
    assert "the run did not measure" in page
    assert not (tmp_path / "faces.jpg").exists()


def test_one_picture_lies_beside_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path / "state.json", {"rows": [{"stage": "a", "parameters": 1, "macs": 1}]})
    monkeypatch.setattr(making, "look", lambda *_: Findings(("a", "a"), pictures=[("one", b"jpeg")]))
    report_run(tmp_path, [], DetectionSettings(), (64, 64))
    assert (tmp_path / "faces.jpg").read_bytes() == b"jpeg"


def test_a_killed_run_has_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(tmp_path / "config.json", {"config": {"DATA": {"val_txt_path": "absent.txt"}}})
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "The run is not finished" in page
    assert "absent.txt: no such annotation file" in page


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"rows": 5}', '{"rows": [{"stage": 5}]}'])
def test_a_damaged_state_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "state.json").write_text(content)
    with pytest.raises(TrainingError, match=r"state\.json: not as it was written .*; restore it"):
        first_and_last(tmp_path)


def test_damaged_settings_are_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[" * 100_000)
    assert "its settings or images cannot be had (nested too deeply" in report_folders([tmp_path]).read_text()


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no run folder"):
        report_folders([tmp_path])
