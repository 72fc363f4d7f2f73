from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from lib.config import Config
from lib.data.scenes import SampleSet
from lib.data.sources import load_data
from lib.models import load, save, shots
from lib.pruning import Masks, plan
from lib.runs.stages.learning import Import
from lib.runs.stages.removal import Shrink
from lib.runs.state import Row
from lib.runs.wiring import data_settings, workbench
from lib.runs.workbench import Workbench
from tests.detectors import random_detector, random_dsfd


def _bench(samples: SampleSet, folder: Path, model: keras.Model) -> Workbench:
    config = Config()
    config.DATA.hin = config.DATA.win = 64
    config.PRUNE.rate = 0.5
    config.MODEL.model_path = str(folder)
    data = replace(
        data_settings(config),
        train_annotations=samples.train_annotations,
        train_images=samples.train_images,
        val_annotations=samples.val_annotations,
        val_images=samples.val_images,
    )
    bench = workbench(config, model, load_data(data))
    save(model, bench.folder.outcome("imported"))
    bench.folder.state.rows.append(Row("imported", 0.0, 1, 1))
    return bench


def test_without_masks_the_present_weights_say_what_goes(samples: SampleSet, tmp_path: Path) -> None:
    model = random_detector(0.03125)
    bench = _bench(samples, tmp_path / "run", model)
    Shrink().run(bench)
    row, removal = bench.folder.state.rows[-1], bench.folder.state.removal
    assert removal is not None
    assert removal.of == "imported"
    assert removal.proof.masked == removal.proof.removed == sum(map(len, plan(model, 0.5).channels.values()))
    small = load(bench.folder.outcome("shrunk"))
    assert row.stage == "shrunk"
    assert row.parameters == sum(int(np.prod(w.shape)) for w in small.trainable_weights)


def test_masks_that_are_there_go(samples: SampleSet, tmp_path: Path) -> None:
    model = random_detector(0.03125)
    bench = _bench(samples, tmp_path / "run", model)
    masks = Masks("removable", dict.fromkeys(plan(model, 0.5).channels, ()) | {"conv1": (0, 1)})
    bench.keep_masks(masks)
    Shrink().run(bench)
    assert bench.folder.state.removal is not None
    assert bench.folder.state.removal.proof.masked == 2


@pytest.mark.slow
def test_a_locked_layer_stays_locked_and_both_shots_stay(samples: SampleSet, tmp_path: Path) -> None:
    model = random_dsfd(backbone_weights="random", frozen_stages=0, lock_basenet_bn=True)
    bench = _bench(samples, tmp_path / "run", model)
    Shrink().run(bench)
    small = load(bench.folder.outcome("shrunk"))
    assert shots(small) == shots(model)
    locked = {layer.name for layer in model.layers if layer.weights and not layer.trainable}
    assert locked
    assert {layer.name for layer in small.layers if layer.weights and not layer.trainable} == locked


def test_importing_leaves_the_model_as_it_is(samples: SampleSet, tmp_path: Path, lively_model: keras.Model) -> None:
    bench = _bench(samples, tmp_path / "run", lively_model)
    bench.folder.state.rows.clear()
    Import().run(bench)
    assert [row.stage for row in bench.folder.state.rows] == ["imported"]
    saved = load(bench.folder.outcome("imported")).get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(saved, lively_model.get_weights(), strict=True))
