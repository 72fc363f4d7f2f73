"""The two doors to all models: `build` makes one by name, `load` reads one from a `.keras` file."""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from lib.anchors import AnchorSpec
from lib.errors import ModelError
from lib.files import replacing
from lib.models.eresfd import eresfd
from lib.models.layers import ConcatenateAnchors, MaxoutBackground, WeightedFusion

BUILDERS: dict[str, Callable[..., keras.Model]] = {"eresfd": eresfd}

__all__ = [
    "BUILDERS",
    "ConcatenateAnchors",
    "MaxoutBackground",
    "WeightedFusion",
    "anchors_of",
    "build",
    "load",
    "save",
]


def build(name: str, weights: str | os.PathLike[str] | None = None, **options: Any) -> keras.Model:
    """Builds a detector.

    Args:
        name: "eresfd".
        weights: None for random weights, a `.keras` file of the same architecture, or published `.pth` weights.
        options: the architecture's own, e.g. `width_mult=0.0625, anchor_ratio=1.25`.

    Returns:
        Functional model: RGB images [B, H, W, 3], 0..255 -> {"boxes": [B, n, 4] offsets, "scores": [B, n, 2] logits}.

    Raises:
        ModelError: unknown name or option, or weights that do not fit.

    """
    if name not in BUILDERS:
        raise ModelError(f"no model is called {name!r}; known: {', '.join(sorted(BUILDERS))}")
    try:
        model = BUILDERS[name](**options)
    except (TypeError, ValueError) as error:
        raise ModelError(f"cannot build {name}: {error}") from error
    if weights is None:
        return model
    if Path(weights).suffix == ".pth":
        from lib.models.published import import_into  # the reader is needed for this case alone

        import_into(model, weights)
        return model
    donor = load(weights)
    theirs, ours = [[tuple(w.shape) for w in m.weights] for m in (donor, model)]
    if theirs != ours:
        raise ModelError(
            f"{weights}: not the weights of {name} with {options or 'default options'}; load() keeps its own shape"
        )
    model.set_weights(donor.get_weights())
    return model


def load(path: str | os.PathLike[str]) -> keras.Model:
    """Reads a model from a `.keras` file, without its optimiser.

    Raises:
        ModelError: the file is missing, is no `.keras` file or is damaged.

    """
    check_is_keras_file(path)
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:  # Keras raises whatever the damaged part provokes
        raise ModelError(f"{path}: damaged, or made by an incompatible version: {_first_line(error)}") from error


def check_is_keras_file(path: str | os.PathLike[str]) -> None:
    """Raises ModelError, saying what to do instead, unless `path` looks like a model saved by Keras 3."""
    file = Path(path)
    if not file.is_file():
        raise ModelError(f"{file}: no such file; expected a .keras model")
    if file.suffix == ".pth":
        raise ModelError(f"{file}: PyTorch weights; turn them into a model with tools/import_weights.py first")
    if file.suffix != ".keras" or not zipfile.is_zipfile(file):
        raise ModelError(
            f"{file}: not a .keras model as model.save() or tools/import_weights.py write it (a zip archive)"
        )
    with zipfile.ZipFile(file) as archive:
        missing = {"config.json", "model.weights.h5"} - set(archive.namelist())
    if missing:
        raise ModelError(f"{file}: a zip archive but no Keras model, it lacks {', '.join(sorted(missing))}")


def save(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Writes the model, with its optimiser if it is compiled, so that the file is whole or absent."""
    with replacing(path) as temporary:
        model.save(temporary)


def anchors_of(model: keras.Model) -> AnchorSpec:
    """The anchors that the model was built for.

    Raises:
        ModelError: the model has no `ConcatenateAnchors` layer, so it is none of this toolkit's detectors.

    """
    for layer in model.layers:
        if isinstance(layer, ConcatenateAnchors):
            return layer.anchor_spec
    raise ModelError(f"model {model.name!r} is no face detector: it does not say which anchors its boxes belong to")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
