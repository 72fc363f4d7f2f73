"""The two doors to all models: `build` makes one by name, `load` reads one from a `.keras` file."""

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import keras

from lib.errors import ModelError
from lib.files import replacing, require_ending
from lib.geometry.anchors import AnchorSpec
from lib.models.backbones import BACKBONES
from lib.models.dsfd import FIRST_SHOT, dsfd
from lib.models.eresfd import eresfd
from lib.models.layers import (
    ConcatenateAnchors,
    CroppedMultiply,
    CropToCells,
    L2Normalization,
    MaxoutBackground,
    PadToMultiple,
    WeightedFusion,
)
from lib.models.soundness import check_archive, check_sound, reason
from lib.models.yunet import yunet

BUILDERS: dict[str, Callable[..., keras.Model]] = {
    "eresfd": eresfd,
    **{name: partial(dsfd, name) for name in BACKBONES},
    "yunet_n": partial(yunet, name="yunet_n"),
    "yunet_s": partial(yunet, stages=(16, 32, 64, 64, 64, 64), shared_head=False, name="yunet_s"),
}

# What a message tells a user whose model takes images of one size.
ANY_SIZE = (
    "a copy of images of any size: copy = keras.models.clone_model(model, input_tensors=keras.Input((None, None, 3))); "
    "copy.set_weights(model.get_weights())"
)

__all__ = [
    "ANY_SIZE",
    "BUILDERS",
    "FIRST_SHOT",
    "ConcatenateAnchors",
    "CropToCells",
    "CroppedMultiply",
    "L2Normalization",
    "MaxoutBackground",
    "PadToMultiple",
    "WeightedFusion",
    "anchors_of",
    "build",
    "inference_model",
    "load",
    "save",
    "shots",
    "size_of_images",
    "training_anchors",
]


def build(name: str, weights: str | os.PathLike[str] | None = None, **options: Any) -> keras.Model:
    """Builds a detector.

    Args:
        name: "eresfd", "yunet_n", "yunet_s", or a DSFD by its backbone: "vgg_16", "resnet_v1_50", "resnet_v1_101",
            "MobilenetV2".
        weights: None for random weights, a `.keras` file of the same architecture, or published `.pth` weights (of
            YuNet also `.onnx`).
        options: the architecture's own, e.g. `width_mult=0.0625, anchor_ratio=1.25`; see `eresfd`, `dsfd` and `yunet`.

    Returns:
        Functional model: RGB images [B, H, W, 3], 0..255 -> {"boxes": [B, n, 4] offsets, "scores": [B, n, 2] logits},
        of a DSFD also the same of its first shot as "first_boxes" and "first_scores"; of a YuNet also "landmarks"
        [B, n, 10].

    Raises:
        ModelError: unknown name or option, or weights that do not fit or cannot be had.

    """
    if name not in BUILDERS:
        raise ModelError(f"no model is called {name!r}; known: {', '.join(sorted(BUILDERS))}")
    if keras.config.image_data_format() != "channels_last":
        raise ModelError(
            "Keras is set to channels_first, and these networks are channels_last; set image_data_format in "
            "~/.keras/keras.json, or call keras.config.set_image_data_format('channels_last')"
        )
    try:
        model = BUILDERS[name](**options)
    except (TypeError, ValueError) as error:
        raise ModelError(f"cannot build {name}: {error}") from error
    if weights is None:
        return model
    if Path(weights).suffix in (".pth", ".onnx"):
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
        ModelError: the file is missing, is no `.keras` file or is damaged; its weights are not finite, or its anchors
            are not those of its boxes.

    """
    finite = check_archive(path)
    try:
        with _uncollected():
            model = keras.saving.load_model(path, compile=False)
    except Exception as error:  # Keras raises whatever the damaged part provokes
        raise ModelError(f"{path}: {reason(error)}") from error
    check_sound(model, path, finite)
    return model


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without garbage collection: what Keras builds stays, and looking for what does not takes a tenth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def save(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Writes the model, with its optimiser if it is compiled, so that the file is whole or absent.

    Raises:
        ModelError: the path does not end in .keras, the only format that `load` reads.

    """
    require_ending(path, ".keras")
    with replacing(path) as temporary:
        model.save(temporary)


def anchors_of(model: keras.Model) -> AnchorSpec:
    """The anchors that the model's detections belong to.

    Raises:
        ModelError: the model has no `ConcatenateAnchors` layer, so it is none of this toolkit's detectors.

    """
    return shots(model)[""]


def shots(model: keras.Model) -> dict[str, AnchorSpec]:
    """What the names of each shot's outputs begin with, and its anchors: "" is the shot that detects.

    Raises:
        ModelError: the model has no `ConcatenateAnchors` layer, so it is none of this toolkit's detectors.

    """
    specs = {
        layer.name.removesuffix("boxes"): layer.anchor_spec
        for layer in model.layers
        if isinstance(layer, ConcatenateAnchors)
    }
    if "" not in specs:
        raise ModelError(f"model {model.name!r} is no face detector: it does not say which anchors its boxes belong to")
    return {prefix: specs[prefix] for prefix in ("", FIRST_SHOT) if prefix in specs}


def training_anchors(model: keras.Model) -> tuple[AnchorSpec, tuple[str, ...]]:
    """All shots' anchors as one grid, with one anchor a cell for each shot if there are several, and the shots' names.

    Raises:
        ModelError: the model is no detector.

    """
    found = shots(model)
    scales = tuple(scale for spec in found.values() for scale in spec.scales)
    return replace(found[""], scales=scales), tuple(found)


def size_of_images(model: keras.Model) -> tuple[int, int] | None:
    """Height and width of the images that a detector takes; None: any.

    Raises:
        ModelError: it takes something else than images, or one of their sides is fixed and the other not.

    """
    shape = tuple(model.inputs[0].shape) if len(model.inputs) == 1 else ()
    if len(shape) != 4 or shape[3] != 3 or (shape[1] is None) != (shape[2] is None):
        shapes = ", ".join(str(tuple(tensor.shape[1:])) for tensor in model.inputs)
        raise ModelError(
            f"model {model.name!r} takes {shapes}; a face detector takes (height, width, 3), both sides fixed or both "
            f"None; {ANY_SIZE}"
        )
    return None if shape[1] is None else (shape[1], shape[2])


def inference_model(model: keras.Model) -> keras.Model:
    """The part of a detector that detects, with the same layers and weights: of two shots the second alone.

    A model without a first shot is returned as it is.
    """
    found = getattr(model, "output", None)  # a Sequential that was not called on anything has none
    if not isinstance(found, dict) or f"{FIRST_SHOT}boxes" not in found:
        return model
    outputs = {name: found[name] for name in ("boxes", "scores")}
    return keras.Model(model.input, outputs, name=model.name)
