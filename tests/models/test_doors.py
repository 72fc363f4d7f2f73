"""`build`, `load`, `save` and `anchors_of` of lib.models."""

import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

from lib.errors import ModelError
from lib.models import anchors_of, build, inference_model, load, save
from tests.detectors import small_detector
from tests.shared import ROOT


def test_saved_model_is_the_same_in_a_new_process(tmp_path: Path, lively_model: keras.Model) -> None:
    image = np.random.default_rng(1).uniform(0, 255, (1, 48, 80, 3)).astype(np.float32)
    save(lively_model, tmp_path / "m.keras")
    np.save(tmp_path / "image.npy", image)
    script = (
        "import sys, numpy as np; from lib.models import load, anchors_of; m = load(sys.argv[1]);"
        "np.savez(sys.argv[3], ratio=anchors_of(m).ratio, **m(np.load(sys.argv[2])))"
    )
    paths = [str(tmp_path / name) for name in ("m.keras", "image.npy", "out.npz")]
    subprocess.run([sys.executable, "-c", script, *paths], check=True, cwd=ROOT)
    ours = lively_model(image)
    with np.load(tmp_path / "out.npz") as theirs:
        np.testing.assert_array_equal(theirs["boxes"], ours["boxes"])
        np.testing.assert_array_equal(theirs["scores"], ours["scores"])
        assert theirs["ratio"] == anchors_of(lively_model).ratio


def test_weights_from_a_keras_file(tmp_path: Path, lively_model: keras.Model) -> None:
    save(lively_model, tmp_path / "m.keras")
    again = build("eresfd", weights=tmp_path / "m.keras", width_mult=4 / 256)
    for ours, theirs in zip(lively_model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(ModelError, match="not the weights of eresfd"):
        build("eresfd", weights=tmp_path / "m.keras", width_mult=8 / 256)


def test_unknown_names_and_options() -> None:
    with pytest.raises(ModelError, match="known: MobilenetV2, eresfd"):
        build("yolo")
    with pytest.raises(ModelError, match="depth"):
        build("eresfd", depth=3)
    with pytest.raises(ModelError, match="multiple of 4"):
        build("eresfd", width_mult=0.01)


def test_files_that_are_no_model(tmp_path: Path) -> None:
    text = tmp_path / "a.keras"
    text.write_text("no model")
    archive = tmp_path / "b.keras"
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("hello.txt", "hello")
    whole = tmp_path / "c.keras"
    save(small_detector(), whole)
    damaged = tmp_path / "d.keras"
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(damaged, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, content[: len(content) // 2] if name == "model.weights.h5" else content)
    cut = tmp_path / "e.keras"
    cut.write_bytes(whole.read_bytes()[:5000])
    pth = tmp_path / "f.pth"
    pth.write_text("x")
    for file, message in (
        (tmp_path / "absent.keras", "no such file"),
        (text, "not a .keras model"),
        (archive, "lacks config.json, model.weights.h5"),
        (damaged, "damaged"),
        (cut, "not a .keras model"),
        (pth, "tools/import_weights.py"),
    ):
        with pytest.raises(ModelError) as error:
            load(file)
        assert str(file) in str(error.value)
        assert message in str(error.value)


def test_a_model_is_saved_in_the_format_that_is_read(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"m\.h5: expected a name ending in \.keras"):
        save(small_detector(), tmp_path / "m.h5")
    assert not list(tmp_path.iterdir())


def test_a_model_without_anchors_is_no_detector() -> None:
    image = keras.Input((8, 8, 3))
    with pytest.raises(ModelError, match="no face detector"):
        anchors_of(keras.Model(image, keras.layers.Conv2D(2, 1)(image)))


def test_a_sequential_model_has_one_shot() -> None:
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 1)])
    assert inference_model(model) is model
