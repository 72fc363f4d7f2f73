from pathlib import Path

import keras

from lib.detection.formats.pb import DetectionSettings
from lib.files import write_json
from lib.models import build, save
from lib.runs.folder import RunFolder
from lib.runs.removal import Proof
from lib.runs.results import costs_of, results_of
from lib.runs.state import Removal, Row, RunState


def test_costs_are_those_of_detecting() -> None:
    costs = costs_of(build("eresfd"), 480, 640)
    assert costs["parameters"] == 92_208
    assert round(costs["macs"] / 1e6, 2) == 295.07


def test_the_content_of_the_file(tmp_path: Path, tiny_model: keras.Model) -> None:
    folder = RunFolder(tmp_path)
    for name in ("finetune", "shrunk"):
        save(tiny_model, folder.outcome(name))
    write_json(tmp_path / "rates_0.5.json", {"target": 0.5})
    rows = [Row("finetune", 0.25, 10, 20, ap=0.5), Row("shrunk", 0.0, 5, 6, pb_bytes=7, latency_ms=1.5)]
    proof = Proof(3, 2, 1e-6, 8, 100, same_detections=True)
    folder.state = RunState(rows=rows, rates="rates_0.5.json", removal=Removal("finetune", proof))
    content = results_of(folder, "none at all", DetectionSettings(), 64, 96)
    size = folder.outcome("finetune").stat().st_size
    assert content["stages"] == [
        {"stage": "finetune", "ap": 0.5, "zero_share": 0.25, "parameters": 10, "macs": 20, "keras_bytes": size},
        {
            "stage": "shrunk", "ap": None, "zero_share": 0.0, "parameters": 5, "macs": 6, "keras_bytes": size,
            "pb_bytes": 7, "latency_ms": 1.5,
        },
    ]  # fmt: skip
    assert content["removal"] == {
        "of": "finetune", "masked": 3, "removed": 2, "difference": 1e-6, "images": 8, "detections": 100,
        "same_detections": True,
    }  # fmt: skip
    assert content["search"] == [{"target": 0.5}]
    assert (content["data"], content["macs_at"]) == ("none at all", "64x96 (height x width)")
