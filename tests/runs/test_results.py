from pathlib import Path

import keras

from lib.config import Config
from lib.data.sources import FaceData
from lib.models import build, save
from lib.runs.folder import RunFolder
from lib.runs.results import costs_of, results_of


def test_costs_are_those_of_detecting() -> None:
    config = Config()
    config.DATA.hin, config.DATA.win = 480, 640
    costs = costs_of(build("eresfd"), config)
    assert costs["parameters"] == 92_208
    assert round(costs["macs"] / 1e6, 2) == 295.07


def test_rows_tell_the_bytes_of_their_files(tmp_path: Path, tiny_model: keras.Model) -> None:
    folder = RunFolder(tmp_path)
    save(tiny_model, folder.outcome("finetune"))
    folder.state = {"stages": [{"stage": "finetune", "ap": 0.5}], "removal": None}
    content = results_of(Config(), FaceData([], [], "none at all"), folder)
    assert content["stages"] == [
        {"stage": "finetune", "ap": 0.5, "keras_bytes": folder.outcome("finetune").stat().st_size}
    ]
    assert content["data"] == "none at all"
