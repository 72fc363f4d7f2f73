"""What a written detector says about itself, inside its file, so that it can be read without the model it came from.

The description is JSON in the format's own metadata. One of its fields is the file's checksum, computed with that field
at zero: a damaged file is refused before any runtime parses it, since some runtimes crash on what they cannot parse.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from lib import __version__
from lib.errors import ModelError
from lib.geometry.anchors import CORNER_SCALE, AnchorSpec, variances_of

KEY = "face_detector"  # the name of the description in a format's metadata, and its first field
REMEDY = "export it anew from the checkpoint with tools/export.py"
_VERSION = 1
_BLANK = "0" * 64
_CHECKSUM = re.compile(rb'"content_sha256": "([0-9a-f]{64})"')
_FIELDS = ("anchors", "size", "precision", "toolkit", "model_sha256")


@dataclass(frozen=True)
class Description:
    """The facts that a reader needs.

    Attributes:
        anchors: what the boxes belong to.
        size_px: height and width of the images it takes; None: any.
        precision: "float32", "float16" or "int8".
        model_sha256: of the model that it was made from, see `model_sha256`.
        toolkit: version of this toolkit.

    """

    anchors: AnchorSpec
    size_px: tuple[int, int] | None
    precision: str
    model_sha256: str
    toolkit: str = __version__

    def to_json(self) -> str:
        """One line, with the checksum at zero; `sealed` fills it in."""
        return json.dumps(
            {
                KEY: _VERSION,
                "image": "float32 [B, H, W, 3], RGB 0..255",
                "size": list(self.size_px) if self.size_px else "any",
                "boxes": "offsets from the anchors",
                "scores": "probability of a face, 0..1",
                "anchors": {
                    **self.anchors.to_dict(),
                    "variances": variances_of(self.anchors.code),
                    "corner_scale": CORNER_SCALE,
                },
                "precision": self.precision,
                "toolkit": self.toolkit,
                "model_sha256": self.model_sha256,
                "content_sha256": _BLANK,
            }
        )


def sealed(content: bytes) -> bytes:
    """The file's content, with a `Description.to_json` somewhere in it, with its checksum filled in."""
    blank = f'"content_sha256": "{_BLANK}"'.encode()
    if content.count(blank) != 1:
        raise ValueError(f"expected one description in the file, found {content.count(blank)}")
    return content.replace(blank, blank.replace(_BLANK.encode(), hashlib.sha256(content).hexdigest().encode()))


def read_description(content: bytes, file: Path) -> Description:
    """The description in a file's content, whatever its format.

    Raises:
        ModelError: there is none, it lacks something, or the file is not as it was written.

    """
    start = content.find(f'{{"{KEY}": '.encode())
    if start < 0:
        raise ModelError(
            f"{file}: does not say what its boxes and scores mean (no {KEY!r} in its metadata): cut short, or not "
            f"written by this toolkit; {REMEDY}"
        )
    try:
        found, _ = json.JSONDecoder().raw_decode(content[start:].decode("latin-1"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file}: its description is cut short; {REMEDY}") from error
    if found[KEY] != _VERSION:
        raise ModelError(f"{file}: its description is of version {found[KEY]!r}, expected {_VERSION}; {REMEDY}")
    checksum = _CHECKSUM.search(content, start)
    missing = [name for name in _FIELDS if name not in found] + ([] if checksum else ["content_sha256"])
    if missing or checksum is None:
        raise ModelError(f"{file}: its description lacks {', '.join(missing)}; {REMEDY}")
    blank = content[: checksum.start(1)] + _BLANK.encode() + content[checksum.end(1) :]
    if hashlib.sha256(blank).hexdigest().encode() != checksum[1]:
        raise ModelError(f"{file}: damaged, its content is not what was written; copy it again, or {REMEDY}")
    return _described(found, file)


def _described(found: dict[str, Any], file: Path) -> Description:
    try:
        constants = {name: found["anchors"].pop(name) for name in ("variances", "corner_scale")}
        anchors = AnchorSpec(**found["anchors"])
        if constants != {"variances": list(variances_of(anchors.code)), "corner_scale": CORNER_SCALE}:
            raise ValueError(f"boxes are encoded with {constants}, which this version cannot decode")
        size = None if found["size"] == "any" else (found["size"][0], found["size"][1])
        if not all(type(number) is int and number > 0 for number in (*(size or ()), *anchors.strides)):
            raise ValueError(f"size and strides must be whole numbers of pixels, got {size} and {anchors.strides}")
        if type(anchors.landmarks) is not int:
            raise ValueError(f"landmarks must be a whole number, got {anchors.landmarks}")
        return Description(anchors, size, found["precision"], found["model_sha256"], found["toolkit"])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ModelError(f"{file}: its description makes no sense ({error!r}); {REMEDY}") from error


def require_ends(
    file: Path, description: Description, ends: Mapping[str, Sequence[int | str]], size_px: tuple[int, int] | None
) -> None:
    """Raises ModelError where a network's ends are not what its description says of images of a size.

    Args:
        ends: the shape of `image` and of each output, the batch first; what is no number, or below 0, is open.
        size_px: height and width of the images; None: any, and open in the shape of `image`.

    """
    anchors = description.anchors
    height, width = size_px or (-1, -1)
    cells = [rows * columns for rows, columns in anchors.grid_shapes(*size_px)] if size_px else []
    count = sum(cells) * len(anchors.scales) if size_px else None
    expected: dict[str, tuple[int | None, ...]] = {"image": (height, width, 3), "boxes": (count, 4), "scores": (count,)}
    if anchors.landmarks:
        expected["landmarks"] = (count, 2 * anchors.landmarks)
    if sorted(ends) != sorted(expected):
        raise ModelError(f"{file}: expected {', '.join(expected)}, found {', '.join(ends)}; {REMEDY}")
    for name, shape in expected.items():
        there = [size if isinstance(size, int) else -1 for size in ends[name][1:]]
        if len(there) != len(shape) or not all(
            found == wanted or (name != "image" and (wanted is None or found < 0))
            for found, wanted in zip(there, shape, strict=True)
        ):
            raise ModelError(
                f"{file}: its {name} have the shape {there}, but by its description, of size "
                f"{description.size_px or 'any'} and strides {anchors.strides}, {list(shape)}; {REMEDY}"
            )


def model_sha256(model: keras.Model) -> str:
    """SHA-256 over the shapes and values of a model's weights, in their order."""
    digest = hashlib.sha256()
    for weight in model.weights:
        value = np.asarray(weight)
        digest.update(f"{value.shape}{value.dtype}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()
