"""What a `.keras` file and the model in it must be before anything is done with them."""

import json
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from lib.errors import ModelError
from lib.geometry.anchors import anchor_grid
from lib.limits import Limits, limits, raising
from lib.models.archives import require_no_bomb
from lib.models.hdf5 import look_at_weights
from lib.models.layers import ConcatenateAnchors
from lib.pruning.graph.calls import Calls

_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_NO_SIZE = ("shared_object_id", "seed")
_CHANNELS = ("filters", "units", "depth_multiplier")
_SIZE_PX = (96, 160)  # any, different in both directions
_HDF5 = b"\x89HDF\r\n\x1a\n"


def check_archive(path: str | os.PathLike[str]) -> bool:
    """Looks into a `.keras` file before Keras does.

    Returns:
        Whether the weights are seen to be finite; where not, they are to be looked at in the model.

    Raises:
        ModelError: it is none, or says that it unpacks to more than a model of its size can; says what to do instead.

    """
    file = Path(path)
    if file.is_dir():
        what = "a SavedModel of TensorFlow" if (file / "saved_model.pb").is_file() else "a folder"
        raise ModelError(f"{file}: {what}; expected a .keras model: save it with model.save('NAME.keras')")
    if not file.is_file():
        raise ModelError(f"{file}: no such file; expected a .keras model")
    if file.suffix == ".pth":
        raise ModelError(f"{file}: PyTorch weights; turn them into a model with tools/import_weights.py first")
    with file.open("rb") as opened:
        if opened.read(len(_HDF5)) == _HDF5:
            raise ModelError(
                f"{file}: HDF5, as older versions of Keras write it; load it there with keras.saving.load_model() and "
                "save it with model.save('NAME.keras')"
            )
    if file.suffix != ".keras" or not zipfile.is_zipfile(file):
        raise ModelError(
            f"{file}: not a .keras model as model.save() or tools/import_weights.py write it (a zip archive)"
        )
    limit = limits()
    try:
        with zipfile.ZipFile(file) as archive:
            if missing := {_CONFIG, _WEIGHTS} - set(archive.namelist()):
                raise ModelError(f"{file}: a zip archive but no Keras model, it lacks {', '.join(sorted(missing))}")
            allowed = require_no_bomb(archive, file, _CONFIG)
            _check_numbers(file, json.loads(archive.read(_CONFIG)), limit)
            declared, finite = look_at_weights(archive, file, _WEIGHTS)
    except ModelError:
        raise
    except Exception as error:  # zip, JSON and HDF5 readers fail in many ways
        raise ModelError(f"{file}: damaged: {first_line(error)}") from error
    if declared > allowed:
        raise ModelError(
            f"{file}: says that its weights take {declared:,} bytes, far more than the file has; if they shall, "
            f"{raising('max_tensor_bytes')}"
        )
    return finite


def _check_numbers(file: Path, config: Any, limit: Limits, key: str = "") -> None:
    """Raises ModelError where a layer would take memory that no detector needs."""
    for name, value in config.items() if isinstance(config, dict) else ((key, part) for part in config):
        kind = type(value)  # one of JSON's own
        if name in _NO_SIZE:
            continue
        if kind is dict or kind is list:
            _check_numbers(file, value, limit, name)
        elif kind is int or kind is float:
            which = "max_channels" if name in _CHANNELS else "max_layer_number"
            if not abs(value) <= (most := getattr(limit, which)):  # nan too
                raise ModelError(f"{file}: a layer with {name} = {value}; at most {most:,} is read; {raising(which)}")


def reason(error: Exception) -> str:
    """Why Keras could not load a sound archive, and what to do."""
    text = str(error)
    if "Lambda" in text and "safe" in text:
        return (
            "it has a Lambda layer, which is Python code in the file, and that is not run; build it anew with a layer "
            "of a class in its place"
        )
    if found := re.search(r"Could not locate (?:class|function|object)?\s*'?([\w.>]+)", text):
        return (
            f"it has {found[1]}, which is none of Keras' own; import the module that defines it, with "
            "@keras.saving.register_keras_serializable(), before loading"
        )
    inner = text.split("Exception encountered: ")[-1].strip().splitlines() if "Exception encountered: " in text else []
    return f"damaged, or made by an incompatible version: {inner[0][:300] if inner else first_line(error)}"


def check_sound(model: keras.Model, path: str | os.PathLike[str], finite: bool = False) -> None:
    """Raises ModelError where a model was never built, its weights are not finite, or its anchors not its boxes'.

    Args:
        finite: whether the weights are known to be finite.

    """
    if not getattr(model, "inputs", None):
        raise ModelError(
            f"{path}: model {model.name!r} has no inputs: it was never built, or is no functional model; make it of "
            "keras.Input() and layers before saving it"
        )
    for variable in [] if finite else model.weights:
        values = np.asarray(variable)
        if values.dtype.kind not in "fiub":  # as bfloat16, which is none of NumPy's own
            values = values.astype(np.float32)
        if not np.isfinite(values).all():
            raise ModelError(f"{path}: {variable.path} holds numbers that are not finite; take an earlier checkpoint")
    if len(model.inputs) != 1 or not any(isinstance(layer, ConcatenateAnchors) for layer in model.layers):
        return
    _, height, width, _ = model.inputs[0].shape
    size = (height or _SIZE_PX[0], width or _SIZE_PX[1])
    calls = Calls(model)
    shapes = calls.shapes_at(*size)
    for call in calls.calls:
        if not isinstance(call.layer, ConcatenateAnchors):
            continue
        spec, boxes, (height, width) = call.layer.anchor_spec, shapes[call.outputs[0]][1], size
        anchors = len(anchor_grid(spec, height, width))
        if boxes not in (None, anchors):
            raise ModelError(
                f"{path}: {boxes} boxes of an image of {height}x{width} (height x width), but {anchors} anchors: the "
                f"strides {spec.strides} or scales {spec.scales} of its layer {call.layer.name!r} are not the network's"
            )


def first_line(error: Exception) -> str:
    """The kind of an error and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
