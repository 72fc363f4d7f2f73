import json
from pathlib import Path

import numpy as np
import pytest

from lib.detection.description import KEY, Description, model_sha256, read_description, sealed
from lib.errors import ModelError
from lib.geometry.anchors import AnchorSpec
from tests.detectors import small_detector

FILE = Path("detector.x")
ANCHORS = json.loads(Description(AnchorSpec(), None, "float32", "0" * 64).to_json())["anchors"]


@pytest.mark.parametrize("size", [None, (480, 640)])
def test_what_is_written_is_read(size: tuple[int, int] | None) -> None:
    description = Description(AnchorSpec(ratio=1.5, scales=(1.0, 0.5), code="corners"), size, "int8", "a" * 64)
    content = sealed(b"before\0" + description.to_json().encode() + b"\0\xff after")
    assert read_description(content, FILE) == description


def test_any_other_byte_is_noticed(rng: np.random.Generator) -> None:
    content = sealed(b"weights" * 9 + Description(AnchorSpec(), None, "float32", "0" * 64).to_json().encode() + b"end")
    for position in rng.choice(len(content), 60, replace=False):
        damaged = bytearray(content)
        damaged[position] ^= 1
        with pytest.raises(ModelError, match=r"detector\.x.*export it anew"):
            read_description(bytes(damaged), FILE)
    for length in (0, 10, 80, len(content) - 1):
        with pytest.raises(ModelError, match=r"detector\.x"):
            read_description(content[:length], FILE)


@pytest.mark.parametrize("name", ["anchors", "size", "precision", "toolkit", "model_sha256", "content_sha256"])
def test_what_is_missing_is_named(name: str) -> None:
    fields = json.loads(Description(AnchorSpec(), None, "float32", "b" * 64).to_json())
    del fields[name]
    content = json.dumps(fields).encode()
    with pytest.raises(ModelError, match=f"lacks {name}"):
        read_description(content if name == "content_sha256" else sealed(content), FILE)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (KEY, 2, "version 2, expected 1"),
        ("size", [480], "makes no sense"),
        *(("size", size, "whole numbers of pixels") for size in ([-4, 64], [0, 64], [4.5, 64], ["4", 64])),
        ("anchors", {**ANCHORS, "strides": [4, 8, 16, 32, 64, 128.5]}, "whole numbers of pixels"),
        ("anchors", {**ANCHORS, "landmarks": 5.0}, "landmarks must be a whole number"),
        ("anchors", {"strides": [4]}, "makes no sense"),
        ("anchors", {**AnchorSpec().to_dict(), "variances": [1, 1], "corner_scale": 5.0}, "cannot decode"),
    ],
)
def test_what_makes_no_sense_is_refused(name: str, value: object, message: str) -> None:
    fields = {**json.loads(Description(AnchorSpec(), None, "float32", "b" * 64).to_json()), name: value}
    with pytest.raises(ModelError, match=message):
        read_description(sealed(json.dumps(fields).encode()), FILE)


def test_a_description_without_end_is_refused() -> None:
    with pytest.raises(ModelError, match=r"detector\.x: its description is cut short"):
        read_description(b'{"face_detector": ' + b"[" * 100_000, FILE)


def test_the_hash_is_that_of_the_weights() -> None:
    model = small_detector()
    assert model_sha256(model) == model_sha256(small_detector())
    assert model_sha256(model) != model_sha256(small_detector(seed=1))
