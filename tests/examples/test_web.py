import json
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from lib.arrays import FloatArray
from lib.data.scenes import draw_scene
from lib.detection import FaceDetector
from lib.detection.detector import fit
from lib.detection.formats import onnx
from lib.geometry.anchors import AnchorSpec
from lib.geometry.boxes import iou_matrix
from tests.detectors import small_detector
from tests.examples.programs import ACROSS, DOWN, SIZE, SPECS, THRESHOLD, program, random_outputs, require_network
from tests.matching import unmatched
from tests.shared import ROOT

WEB = ROOT / "examples/web"
DECODE = """
import { faces, fit, readDescription } from "DETECTOR";
import { readFileSync } from "node:fs";
const [file, given] = process.argv.slice(2);
const { boxes, scores, height, width } = JSON.parse(readFileSync(given));
const facts = readDescription(readFileSync(file));
const { inputHeight, inputWidth } = fit(height, width, facts.size);
const outputs = [Float32Array.from(boxes), Float32Array.from(scores)];
console.log(JSON.stringify(faces(...outputs, facts, inputHeight, inputWidth, THRESHOLD, ACROSS, DOWN)));
"""
# Starts the camera where no picture is asked for, and tells what the page says at last.
WATCH = """<!doctype html><iframe src="index.html?QUERY" allow="camera"></iframe>
<script>
  let started = "QUERY".includes("picture=");
  setInterval(() => {
    const page = document.querySelector("iframe").contentDocument;
    const said = page?.getElementById("said");
    if (said?.dataset.state === "ready" && !started) {
      started = true;
      page.getElementById("camera").click();
    }
    if (["done", "error"].includes(said?.dataset.state)) {
      fetch("said", { method: "POST", body: JSON.stringify([said.textContent, said.dataset.faces ?? "[]"]) });
    }
  }, 100);
</script>
"""


def as_rows(faces: list[dict[str, float]]) -> FloatArray:
    rows = [[face[key] for key in ("x1", "y1", "x2", "y2", "score")] for face in faces]
    return np.array(rows, np.float32).reshape(-1, 5)


def clear(boxes: FloatArray) -> FloatArray:
    """Those that differences of a thousandth cannot bring above or below the threshold."""
    return boxes[boxes[:, 4] > THRESHOLD + 1e-3]


@pytest.mark.parametrize("anchors", SPECS)
def test_boxes_from_a_networks_outputs(anchors: AnchorSpec, tmp_path: Path, rng: np.random.Generator) -> None:
    node = program("node")
    boxes, scores, expected = random_outputs(anchors, tmp_path / "detector.onnx", rng)
    outputs = {"boxes": boxes.ravel().tolist(), "scores": scores.tolist(), "height": SIZE[0], "width": SIZE[1]}
    (tmp_path / "outputs.json").write_text(json.dumps(outputs))
    script = DECODE.replace("DETECTOR", (WEB / "detector.mjs").as_uri()).replace("THRESHOLD", str(THRESHOLD))
    script = script.replace("ACROSS", str(ACROSS)).replace("DOWN", str(DOWN))
    (tmp_path / "decode.mjs").write_text(script)
    command = [node, str(tmp_path / "decode.mjs"), str(tmp_path / "detector.onnx"), str(tmp_path / "outputs.json")]
    found = as_rows(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-3)


def test_a_file_that_says_nothing_of_its_boxes_is_refused() -> None:
    node = program("node")
    script = (
        f'import {{ readDescription }} from "{(WEB / "detector.mjs").as_uri()}"; readDescription(new Uint8Array(9))'
    )
    done = subprocess.run([node, "--input-type=module", "--eval", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert "write the file anew with tools/export.py" in done.stderr


@pytest.mark.parametrize("size", ["any", [480, 640]])
def test_a_picture_is_fitted_as_in_python(size: Any) -> None:
    node = program("node")
    for height, width in ((20, 900), (333, 500), (481, 641), (2000, 1500)):
        script = f'import {{ fit }} from "{(WEB / "detector.mjs").as_uri()}"; console.log(JSON.stringify(fit('
        script += f"{height}, {width}, {json.dumps(size)}, 1024)));"
        command = [node, "--input-type=module", "--eval", script]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        fixed = None if size == "any" else (480, 640)
        image, extent = fit(np.zeros((height, width, 3), np.uint8), fixed, None if fixed else 1024)
        assert (found["inputHeight"], found["inputWidth"]) == image.shape[:2]
        across = found["inputWidth"] * width / found["filledWidth"]
        assert extent[:2] == pytest.approx([across, found["inputHeight"] * height / found["filledHeight"]])


def test_the_lock_names_one_version_and_no_registry() -> None:
    wanted = json.loads((WEB / "package.json").read_text())["dependencies"]
    packages = json.loads((WEB / "package-lock.json").read_text())["packages"]
    assert packages["node_modules/onnxruntime-web"]["version"] == wanted["onnxruntime-web"]
    for name, package in packages.items():
        assert not name or package["integrity"].startswith("sha512-")
        assert package.get("resolved", "https://registry.npmjs.org/").startswith("https://registry.npmjs.org/")


def served(folder: Path, said: list[Any], answered: threading.Event) -> ThreadingHTTPServer:
    """A server of a folder's files that keeps what is posted to it."""

    class Handler(SimpleHTTPRequestHandler):
        def do_POST(self) -> None:
            said[:] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()
            answered.set()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The page's folder with its packages, a detector, a scene as a picture and the same scene as a film."""
    npm, folder = program("npm"), tmp_path_factory.mktemp("web")
    program("chromium")
    for file in WEB.glob("*.*"):
        shutil.copy(file, folder)
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    installed = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    require_network(installed.stderr)
    assert installed.returncode == 0, installed.stderr
    onnx.write(small_detector(), folder / "detector.onnx")
    image = scene()
    cv2.imwrite(str(folder / "scene.png"), image[..., ::-1])
    height, width = image.shape[:2]
    film = f"YUV4MPEG2 W{width} H{height} F10:1 Ip A1:1 C420jpeg\n".encode()
    (folder / "scene.y4m").write_bytes(film + b"FRAME\n" + cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420).tobytes())
    yield folder
    shutil.rmtree(folder / "node_modules")  # 150 MB


def scene() -> NDArray[np.uint8]:
    image = draw_scene(np.random.default_rng(3))[0]
    return image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]  # what a film can have


def shown(page: Path, query: str, *options: str) -> tuple[str, FloatArray]:
    """What the page says at last, and the faces it found."""
    (page / "watch.html").write_text(WATCH.replace("QUERY", query))
    said: list[Any] = []
    answered = threading.Event()
    server = served(page, said, answered)
    address = f"http://127.0.0.1:{server.server_port}/watch.html"
    always = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = subprocess.Popen(
            [program("chromium"), *always, f"--user-data-dir={profile}", *options, address],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            assert answered.wait(180), "the page said nothing"
        finally:
            browser.terminate()
            browser.wait(30)
            server.shutdown()
            server.server_close()
    return said[0], as_rows(json.loads(said[1]))


@pytest.mark.slow
def test_the_page_finds_the_same_faces_in_a_browser(page: Path) -> None:
    text, found = shown(page, f"model=detector.onnx&picture=scene.png&threshold={THRESHOLD}")
    assert "ms from picture to boxes" in text, text
    expected = FaceDetector(page / "detector.onnx", threads=1)(scene(), THRESHOLD)
    assert len(clear(expected)) > 0
    assert unmatched(clear(found), clear(expected)) == []


@pytest.mark.slow
def test_the_page_finds_faces_before_a_camera(page: Path) -> None:
    film = f"--use-file-for-fake-video-capture={page / 'scene.y4m'}"
    camera = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", film)
    text, found = shown(page, f"model=detector.onnx&threshold={THRESHOLD}", *camera)
    assert "ms from picture to boxes" in text, text
    expected = clear(FaceDetector(page / "detector.onnx", threads=1)(scene(), THRESHOLD))
    best = expected[expected[:, 4].argmax()]  # a film has a quarter of the colours: scores move, places hardly
    assert iou_matrix(best[None, :4].astype(np.float64), found[:, :4].astype(np.float64)).max() > 0.8
