import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from lib.files import write_json
from lib.runs.report.findings import Findings
from lib.runs.report.page import write_page

HOSTILE = "<img src=x onerror=alert(1)>"


def _findings() -> Findings:
    curve = [(0.0, 1.0), (1.0, 0.5)]
    layers = [("conv1", 8.0, 5.0), (HOSTILE, 4.0, 4.0)]
    return Findings(("pretrain", "shrunk"), 3, {"pretrain": curve}, [("3 faces", b"\xff\xd8")], 3, 1, layers, layers)


def _run(folder: Path) -> Path:
    row = {"ap": 0.5, "zero_share": 0.1, "parameters": 10, "macs": 20, "keras_bytes": 30, "latency_ms": 1.5}
    rows = [{"stage": "pretrain", **row}, {"stage": "shrunk", **row}]
    write_json(folder / "results.json", {"stages": rows, "data": HOSTILE, "protocol": "p", "macs_at": "64x64"})
    history = [{"epoch": epoch, "stage": "pretrain", "loss": 2.0, "val_loss": 3.0, "val_ap": 0.4} for epoch in (1, 2)]
    write_json(folder / "state.json", {"finished": ["pretrain"], "rows": rows, "history": history, "position": None})
    settings = {"TRAIN": {"stages": ["pretrain"]}, "DATA": {"val_txt_path": ""}, "MODEL": {"net_structure": "eresfd"}}
    write_json(folder / "config.json", {"config": settings, "versions": {"python": HOSTILE}})
    return folder


def test_the_page_holds_everything_and_loads_nothing(tmp_path: Path) -> None:
    run = _run(tmp_path / "run")
    table = [f"{i},0.1,10,20,,{0.3 + 0.2 * (i % 2)},{5 - i},1,2" for i in range(4)]
    (run / "search.csv").write_text(
        "\n".join(["trial,early,parameters,macs,ms,budget_ratio,val_loss,objective,seconds", *table])
    )
    export = {"format": "litert", "precision": "int8", "bytes": 9, "ms": 1.0, "ms_ratio": 0.5, "ap": None}
    write_json(
        run / "export.json", {"rows": [{**export, "largest_score_difference": 0.1, "detections": 5, "changed": 1}]}
    )
    page = write_page(run / "report.html", [(run, _findings())]).read_text()
    for part in (
        "shrunk",
        "Drawn scenes",
        "loss",
        "Precision and recall",
        "1 were lost",
        "not beaten",
        "litert",
        "about 0.5 of",
        ">AP<",
    ):
        assert part in page
    assert "<script" not in page
    assert "<img src=x" not in page
    assert all(source.startswith("data:") for source in re.findall(r'(?:src|href)="([^"]*)"', page))
    assert "http" not in page
    assert 'class="missing"' not in page


def test_several_runs_side_by_side(tmp_path: Path) -> None:
    runs = [_run(tmp_path / name) for name in ("a", "b")]
    page = write_page(tmp_path / "both.html", [(run, _findings()) for run in runs]).read_text()
    assert "Side by side" in page
    assert page.count("Which channels went") == 2


def test_a_half_done_run_says_what_is_missing(tmp_path: Path) -> None:
    run = _run(tmp_path / "run")
    (run / "results.json").unlink()
    page = write_page(run / "report.html", [(run, "no stage is finished")]).read_text()
    assert "The run is not finished: no results.json. Stages done: pretrain; epochs: 2." in page
    assert "are missing: no stage is finished" in page


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", pytest.param("[" * 100_000, id="nested too deeply"), '{"stages": [{"ap": 1}], "rows": 3}'],
)
@pytest.mark.parametrize("name", ["results", "state", "config"])
def test_damaged_files_are_no_traceback(tmp_path: Path, name: str, content: str) -> None:
    run = _run(tmp_path / "run")
    (run / f"{name}.json").write_text(content)
    assert "</html>" in write_page(run / "report.html", [(run, "damaged")]).read_text()


def test_chromium_loads_it_without_a_word(tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("no Chromium on this machine")
    from lib.runs.report.findings import _jpeg

    run = _run(tmp_path / "run")
    findings = _findings()
    findings.pictures = [("3 faces", _jpeg(np.zeros((20, 20, 3), np.uint8)))]
    page = write_page(run / "report.html", [(run, findings)])
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        f"--user-data-dir={tmp_path}/b",
    ]
    done = subprocess.run(
        [browser, *options, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert "Which channels went" in done.stdout
    assert ":CONSOLE" not in done.stderr
