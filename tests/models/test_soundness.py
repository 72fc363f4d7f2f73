import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from lib.errors import ModelError
from lib.limits import allowing
from lib.models import build, load, save
from lib.models.soundness import check_archive
from tests.detectors import small_detector, small_detector_of


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("model") / "whole.keras"
    save(small_detector(), file)
    return file


def _edited(whole: Path, file: Path, edit: Callable[[Any], None]) -> Path:
    """A copy whose description is edited."""
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(file, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "config.json":
                config = json.loads(content)
                edit({layer["name"]: layer["config"] for layer in config["config"]["layers"]})
                content = json.dumps(config).encode()
            target.writestr(name, content)
    return file


def test_a_sound_model_passes(whole: Path) -> None:
    assert load(whole).count_params() == small_detector().count_params()


@pytest.mark.parametrize(
    ("value", "dtype"), [(np.nan, "float32"), (np.inf, "float32"), (np.nan, "bfloat16"), (np.inf, "float16")]
)
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float, dtype: str) -> None:
    model = small_detector_of(dtype)
    kernel = model.get_layer("conv2").kernel
    changed = np.array(kernel, np.float32)
    changed[0, 0, 0, 0] = value
    kernel.assign(changed)
    model.save(tmp_path / "a.keras")
    with pytest.raises(ModelError, match=r"a\.keras: conv2/kernel holds numbers that are not finite; take an earlier"):
        load(tmp_path / "a.keras")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("ratio", float("nan"), "a layer with ratio = nan; at most"),
        ("ratio", 0, "must be positive numbers"),
        ("scales", [1.0, 2.0], "strides .* or scales .* of its layer 'boxes' are not the network's"),
        ("strides", [8, 16], "strides .* or scales .* of its layer 'boxes' are not the network's"),
        ("strides", [4], "one anchor size a stride"),
    ],
)
def test_anchors_of_another_network_are_refused(
    whole: Path, tmp_path: Path, key: str, value: object, message: str
) -> None:
    file = _edited(whole, tmp_path / "a.keras", lambda layers: layers["boxes"]["anchors"].update({key: value}))
    with pytest.raises(ModelError, match=message):
        load(file)


def test_a_layer_that_would_take_all_memory_is_refused_before_it_is_built(whole: Path, tmp_path: Path) -> None:
    file = _edited(whole, tmp_path / "a.keras", lambda layers: layers["conv1"].update({"filters": 100_000}))
    with pytest.raises(
        ModelError, match=r"a layer with filters = 100000; at most 8,192 is read; raise LIMITS\.max_cha"
    ):
        load(file)


@pytest.mark.parametrize(
    ("key", "name"), [("filters", "max_channels"), ("momentum", "max_layer_number"), ("weights", "max_tensor_bytes")]
)
def test_limits_of_layers_and_tensors_are_settings(whole: Path, tmp_path: Path, key: str, name: str) -> None:
    file, most = whole, 1 << 29
    if key == "weights":
        with h5py.File(tmp_path / "w.h5", "w") as weights:
            weights.create_dataset("a", (1 << 28,), "f2", chunks=(1 << 20,))  # of which nothing is stored
        file = tmp_path / "a.keras"
        with zipfile.ZipFile(whole) as source, zipfile.ZipFile(file, "w") as target:
            target.writestr("config.json", source.read("config.json"))
            target.write(tmp_path / "w.h5", "model.weights.h5")
    else:
        file = _edited(whole, tmp_path / "a.keras", lambda layers: layers["conv1"].update({key: most}))
    with pytest.raises(ModelError, match=rf"a\.keras: .*; (if they shall, )?raise LIMITS\.{name} in the config"):
        check_archive(file)
    with allowing(**{name: most}):
        check_archive(file)


def test_archives_that_unpack_to_too_much_are_refused(whole: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(whole) as source:
        config = source.read("config.json")
    with h5py.File(tmp_path / "w.h5", "w") as weights:
        weights.create_dataset("a", (1 << 28,), "f4", chunks=(1 << 20,))  # a gigabyte of which nothing is stored
    for name, content in (("h5", (tmp_path / "w.h5").read_bytes()), ("zip", bytes(200 << 20))):
        with zipfile.ZipFile(tmp_path / f"{name}.keras", "w", zipfile.ZIP_DEFLATED) as target:
            target.writestr("config.json", config)
            target.writestr("model.weights.h5", content)
        with pytest.raises(ModelError, match=r"says that (it unpacks to|its weights take)"):
            load(tmp_path / f"{name}.keras")


def test_other_formats_are_named_with_the_way(tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").touch()
    with h5py.File(tmp_path / "old.h5", "w"):
        pass
    for name, message in (("saved", "a SavedModel of TensorFlow"), ("old.h5", "HDF5, as older versions of Keras")):
        with pytest.raises(ModelError, match=rf"{message}.*model\.save"):
            check_archive(tmp_path / name)


class _Own(keras.layers.Layer):
    def call(self, inputs: Any) -> Any:
        return inputs


def test_code_in_a_file_and_classes_of_others_are_named(tmp_path: Path) -> None:
    image = keras.Input((8, 8, 3))
    keras.Model(image, keras.layers.Lambda(lambda x: x + 1)(image)).save(tmp_path / "code.keras")
    with pytest.raises(ModelError, match="has a Lambda layer, which is Python code in the file, and that is not run"):
        load(tmp_path / "code.keras")
    keras.Model(image, _Own()(image)).save(tmp_path / "own.keras")
    with zipfile.ZipFile(tmp_path / "own.keras") as source, zipfile.ZipFile(tmp_path / "b.keras", "w") as target:
        for name in source.namelist():  # as if its module were not here
            target.writestr(name, source.read(name).replace(b"tests.models.test_soundness", b"their.module"))
    with pytest.raises(ModelError, match=r"_Own, which is none of Keras' own; import the module"):
        load(tmp_path / "b.keras")


def test_channels_first_is_refused_with_the_way() -> None:
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ModelError, match=r"channels_last; set image_data_format in ~/\.keras/keras\.json"):
            build("eresfd")
    finally:
        keras.config.set_image_data_format("channels_last")


@pytest.mark.filterwarnings("ignore:You are saving a model that has not yet been built")
def test_a_model_that_was_never_built_is_named(tmp_path: Path) -> None:
    keras.Sequential([keras.layers.Conv2D(4, 3)]).save(tmp_path / "a.keras")
    with pytest.raises(ModelError, match=r"a\.keras: model 'sequential.*' has no inputs: it was never built"):
        load(tmp_path / "a.keras")
