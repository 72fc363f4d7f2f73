from dataclasses import replace
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest

from lib.config import Config
from lib.data.images import read_rgb, write_rgb
from lib.data.scenes import SampleSet
from lib.data.sources import load_data
from lib.errors import ConfigError, DataError
from lib.models import load, save, shots
from lib.pruning import Masks, apply_masks, plan, repair
from lib.runs.stages.learning import Import
from lib.runs.stages.removal import Repair, Shrink
from lib.runs.state import Row, RunState
from lib.runs.wiring import data_settings, workbench
from lib.runs.workbench import Workbench
from tests.detectors import random_dsfd, small_detector
from tests.networks import lively


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """A removal that is proved on two images, and a repair that takes a second."""
    monkeypatch.setattr("lib.runs.stages.removal.COMPARED_IMAGES", 1)
    monkeypatch.setattr("lib.runs.removal.RANDOM_IMAGES", 1)
    monkeypatch.setattr("lib.runs.stages.removal.repair", partial(repair, positions_per_layer=1000))


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
    model = small_detector(8)
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
    model = small_detector(8)
    bench = _bench(samples, tmp_path / "run", model)
    masks = Masks("removable", dict.fromkeys(plan(model, 0.5).channels, ()) | {"conv1": (0, 1)})
    bench.keep_masks(masks)
    Shrink().run(bench)
    assert bench.folder.state.removal is not None
    assert bench.folder.state.removal.proof.masked == 2


@pytest.mark.parametrize(("usable", "compared_on"), [(True, 1), (False, 0)])
def test_images_that_cannot_be_used_stop_no_removal(
    samples: SampleSet, tmp_path: Path, usable: bool, compared_on: int, caplog: pytest.LogCaptureFixture
) -> None:
    bench = _bench(samples, tmp_path / "run", small_detector(8))
    write_rgb(tmp_path / "small.png", np.zeros((12, 40, 3), np.uint8))
    (tmp_path / "broken.png").write_bytes(b"no image")
    good = bench.data.val[0]
    bad = [replace(good, image=tmp_path / f"{name}.png") for name in ("small", "broken")]
    bench.data = replace(bench.data, val=[*bad, good] if usable else bad)
    Shrink().run(bench)
    assert bench.folder.state.removal is not None
    assert bench.folder.state.removal.proof.images == compared_on
    assert ("none of 2 validation images can be used" in caplog.text) == (not usable)


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


def test_importing_leaves_the_model_as_it_is(samples: SampleSet, tmp_path: Path, rng: np.random.Generator) -> None:
    model = lively(small_detector(8), rng)
    bench = _bench(samples, tmp_path / "run", model)
    bench.folder.state.rows.clear()
    Import().run(bench)
    assert [row.stage for row in bench.folder.state.rows] == ["imported"]
    saved = load(bench.folder.outcome("imported")).get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(saved, model.get_weights(), strict=True))


def test_the_small_model_is_repaired_and_its_errors_are_kept(samples: SampleSet, tmp_path: Path) -> None:
    model = small_detector(8)
    bench = _bench(samples, tmp_path / "run", model)
    Shrink().run(bench)
    broken = replace(bench.data.train[0], image=tmp_path / "absent.jpg")
    bench.data = replace(bench.data, train=[broken, *bench.data.train[1:4]])
    Repair("solve", 4, "removable").run(bench)
    found = bench.folder.state.repair
    assert found is not None
    assert [row.stage for row in bench.folder.state.rows] == ["imported", "shrunk", "repaired"]
    assert found["images"] == 3, "the one that cannot be read is left out"
    assert found["left"] == []
    assert sum(row["after"] for row in found["layers"]) < 0.9 * sum(row["before"] for row in found["layers"])
    whole, bare, mended = (load(bench.folder.outcome(name)) for name in ("imported", "shrunk", "repaired"))
    image = read_rgb(bench.data.train[1].image)[None].astype(np.float32)
    truth, before, after = (np.asarray(model(image)["scores"]) for model in (whole, bare, mended))
    assert np.square(after - truth).mean() < np.square(before - truth).mean()
    assert RunState.from_dict(bench.folder.state.to_dict()).repair == found


def test_after_soft_pruning_the_model_before_its_zeros_is_aimed_at(samples: SampleSet, tmp_path: Path) -> None:
    model = small_detector(8)
    bench = _bench(samples, tmp_path / "run", model)
    save(model, bench.folder.before_masks)
    masks = bench.masks(model)
    apply_masks(model, masks)
    bench.folder.state.rows.clear()
    bench.leave("soft_prune", model)
    Shrink().run(bench)
    assert bench.folder.whole_model() == bench.folder.before_masks
    Repair("solve", 2, "removable").run(bench)
    assert bench.folder.state.repair is not None
    assert sum(row["before"] for row in bench.folder.state.repair["layers"]) > 0.1


def test_a_repair_may_only_measure_statistics_or_nothing(samples: SampleSet, tmp_path: Path) -> None:
    bench = _bench(samples, tmp_path / "run", small_detector(8))
    Shrink().run(bench)
    Repair("off", 2, "removable").run(bench)
    assert len(bench.folder.state.rows) == 2
    Repair("recalibrate", 2, "per_layer").run(bench)
    assert bench.folder.state.repair == {"how": "recalibrate", "images": 2}
    bare, measured = (load(bench.folder.outcome(name)) for name in ("shrunk", "repaired"))
    changed = {
        a.path.split("/")[-1]
        for a, b in zip(bare.weights, measured.weights, strict=True)
        if np.any(np.asarray(a) != np.asarray(b))
    }
    assert changed == {"moving_mean", "moving_variance"}


def test_a_repair_that_cannot_be(samples: SampleSet, tmp_path: Path) -> None:
    model = small_detector(8)
    bench = _bench(samples, tmp_path / "run", model)
    with pytest.raises(ConfigError, match=r"set PRUNE\.repair = 'recalibrate'"):
        Repair("solve", 2, "per_layer").check(model)
    broken = [replace(record, image=tmp_path / "absent.jpg") for record in bench.data.train[:2]]
    bench.data = replace(bench.data, train=broken)
    with pytest.raises(DataError, match=r"none of 2 photographs can be read, the first: .*absent\.jpg"):
        Repair("solve", 2, "removable").run(bench)
