import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.shared import ROOT
from tests.wider_files import write_predictions, write_truth

tool = importlib.import_module("tools.ap_eval.evaluation")

A, B = [10, 10, 20, 20], [100, 10, 40, 40]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[str, str]:
    truth = write_truth(tmp_path / "gt", {"0--Parade": {"a": [A, B], "b": [A]}}, {"easy": {"a": [2], "b": []}})
    pred = write_predictions(
        tmp_path / "pred", {"0--Parade/a": [[*B, 0.9], [*A, 0.5]], "0--Parade/b": [[300, 300, 9, 9, 0.1]]}
    )
    return f"--pred={pred}", f"--gt={truth}"


def test_easy_medium_hard(folders: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, picture = tmp_path / "ap.json", tmp_path / "curve.png"
    assert tool.main([*folders, f"--json={out}", f"--picture={picture}"]) == 0
    figures = json.loads(out.read_text())
    assert [figures[subset] for subset in ("easy", "medium", "hard")] == pytest.approx([1.0, 2 / 3, 2 / 3])
    assert figures["by_height_px"] == {"under_16": None, "16_to_32": 0.5, "32_to_64": 1.0, "64_and_over": None}
    assert figures["images_left_out"] == 0
    assert picture.stat().st_size > 1000
    printed = capsys.readouterr().out
    assert "1.0000000000" in printed
    assert "2 images with 3 detections" in printed
    assert "matching: " in printed
    assert "PART OF THE SET" not in printed


def test_only_predicted_leaves_faces_out_and_says_so(
    folders: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pred/0--Parade/b.txt").unlink()
    assert tool.main([*folders, "--only_predicted", f"--json={tmp_path / 'ap.json'}"]) == 0
    figures = json.loads((tmp_path / "ap.json").read_text())
    assert figures["hard"] == 1.0
    assert figures["faces"]["hard"] == 2
    assert figures["images_left_out"] == 1
    assert "PART OF THE SET ONLY: 1 of 2 images" in capsys.readouterr().out


def test_annotations_of_ones_own(tmp_path: Path, folders: tuple[str, str]) -> None:
    annotation, out = tmp_path / "val.txt", tmp_path / "ap.json"
    annotation.write_text("0--Parade/a.jpg| 10,10,30,30,1 100,10,140,50,1\n")
    assert tool.main([folders[0], f"--annotation={annotation}", f"--json={out}"]) == 0
    assert json.loads(out.read_text())["all"] == 1.0


@pytest.mark.parametrize("option", ["--json=val.json", "--picture=val.png", "--json=curve.png", "--picture=ap.json"])
def test_annotations_are_not_replaced(
    option: str, tmp_path: Path, folders: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    annotation = Path("val").with_suffix(Path(option).suffix)
    annotation.write_text("0--Parade/a.jpg| 10,10,30,30,1 100,10,140,50,1\n")
    with pytest.raises(SystemExit):
        tool.main([folders[0], f"--annotation={annotation}", option])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["gt", "pred", str(annotation)])
    assert annotation.read_text().startswith("0--Parade")


def test_without_the_extension_it_says_so(
    folders: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lib.evaluation import matching

    monkeypatch.setattr(matching, "COMPILED", None)
    monkeypatch.setattr(matching, "FASTEST", matching.NUMPY)
    assert tool.main(folders) == 0
    assert "matching: NumPy; for the compiled one: cd tools/ap_eval" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: shutil.rmtree(root / "pred"), "pred: no such folder"),
        (lambda root: shutil.rmtree(root / "pred/0--Parade"), "no prediction file for any of the 2 images"),
        (lambda root: (root / "pred/0--Parade/b.txt").unlink(), "no prediction file 0--Parade/b.txt (1 of 2"),
        (lambda root: (root / "pred/0--Parade/b.txt").write_text("b\n1\n1 2"), "0--Parade/b.txt:3: "),
        (lambda root: shutil.rmtree(root / "gt"), "gt: no such folder"),
        (lambda root: (root / "gt/wider_easy_val.mat").write_text("x"), "wider_easy_val.mat: cannot be read"),
    ],
)
def test_errors_are_one_line(
    folders: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], change: object, message: str
) -> None:
    assert callable(change)
    change(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        tool.main(folders)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_it_starts_without_keras() -> None:
    code = "import sys; import lib.evaluation.wider; sys.exit('keras' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_extension_builds(tmp_path: Path) -> None:
    pytest.importorskip("Cython", reason="Cython is not installed")
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/__init__.py").touch()
    for source in ("evaluation/matching_compiled.pyx", "geometry/suppression_compiled.pyx"):
        target = tmp_path / "lib" / source
        target.parent.mkdir()
        (target.parent / "__init__.py").touch()
        shutil.copy(ROOT / "lib" / source, target)
    shutil.copytree(ROOT / "tools/ap_eval", tmp_path / "tools/ap_eval", ignore=shutil.ignore_patterns("build"))
    build = [sys.executable, "setup.py", "build_ext", "--inplace"]
    quickly = {**os.environ, "CFLAGS": "-O0"}  # behind the flags that Python was built with
    subprocess.run(build, cwd=tmp_path / "tools/ap_eval", check=True, capture_output=True, env=quickly)
    use = "from lib.evaluation.matching_compiled import match, count; import lib.geometry.suppression_compiled"
    subprocess.run([sys.executable, "-c", use], cwd=tmp_path, check=True)
