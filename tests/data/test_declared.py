import io

import numpy as np
import PIL.Image
import pytest

from lib.data.declared import declared_size, is_cut_short

FORMATS = ["JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM"]


def _file(kind: str, **options: object) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (41, 67, 3), dtype=np.uint8)
    stream = io.BytesIO()
    PIL.Image.fromarray(noise).save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_says_its_size(kind: str) -> None:
    assert declared_size(_file(kind)) == (67, 41)


def test_variants_of_a_format_say_it_too() -> None:
    assert declared_size(_file("WEBP", lossless=True)) == (67, 41)
    assert declared_size(_file("JPEG", progressive=True)) == (67, 41)
    assert declared_size(b"P6\n# a comment\n67 41\n255\n") == (67, 41)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_header_cut_anywhere_raises_nothing(kind: str) -> None:
    data = _file(kind)
    for end in [*range(min(len(data), 700)), len(data)]:
        assert declared_size(data[:end]) in (None, (67, 41))
        is_cut_short(data[:end])


def test_no_image_says_nothing() -> None:
    for data in (b"", b"hello", b"\xff\xd8", b"P6 x y", b"BM"):
        assert declared_size(data) is None
