import io
import struct
import time

import cv2
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


def test_fill_bytes_and_stray_ones_before_a_segment_are_passed_over() -> None:
    data = _file("JPEG")
    for between in (b"\xff" * 9, b"\xff\x00", b"\xff\xff\x01", b"\xff\xd0", b"ab"):
        assert declared_size(data[:2] + between + data[2:]) == (67, 41)
        assert not is_cut_short(data[:2] + between + data[2:])


@pytest.mark.parametrize("filling", [b"\xff\xe0\x00\x02", b"\xff", b"\xff\x00", b"\xff\xd8"])
def test_a_header_without_end_costs_no_time(filling: bytes) -> None:
    data = b"\xff\xd8" + filling * ((8 << 20) // len(filling)) + _file("JPEG")[2:-2]
    start = time.process_time()
    assert declared_size(data) in (None, (67, 41))
    assert is_cut_short(data)
    assert time.process_time() - start < 1


def test_no_image_says_nothing() -> None:
    for data in (b"", b"hello", b"\xff\xd8", b"P6 x y", b"BM"):
        assert declared_size(data) is None


def _encoded(suffix: str) -> bytes:
    return cv2.imencode(suffix, np.zeros((41, 67, 3), np.uint8))[1].tobytes()


def test_jpeg_2000_and_avif_say_it_too() -> None:
    boxed = _encoded(".jp2")
    assert declared_size(boxed) == (67, 41)
    assert declared_size(boxed[boxed.index(b"\xff\x4f") :]) == (67, 41)
    assert declared_size(_encoded(".avif")) == (67, 41)


def test_a_comment_is_no_size_of_a_jpeg_2000() -> None:
    boxed = _encoded(".jp2")
    stream = boxed[boxed.index(b"\xff\x4f") :]
    behind = 4 + struct.unpack_from(">H", stream, 4)[0]
    comment = b"\xff\x64" + struct.pack(">HH", 16, 1) + b"ihdr" + struct.pack(">II", 5, 6)
    assert declared_size(stream[:behind] + comment + stream[behind:]) == (67, 41)
    header = boxed.index(b"ihdr") + 4
    assert declared_size(boxed[:header] + struct.pack(">II", 5, 6) + boxed[header + 8 :]) == (67, 41)


def test_of_several_sizes_of_an_avif_the_largest_counts() -> None:
    data = _encoded(".avif")
    start = data.index(b"meta") - 4
    (size,) = struct.unpack_from(">I", data, start)
    other = struct.pack(">I4sIII", 20, b"ispe", 0, 6, 5)
    meta = struct.pack(">I", size + 20) + data[start + 4 : start + 12] + other + data[start + 12 : start + size]
    assert declared_size(data[:start] + meta + data[start + size :]) == (67, 41)
    assert declared_size(data + struct.pack(">I4s", 8, b"moov")) is None


def test_a_tiff_has_one_width_and_one_height_in_its_directory() -> None:
    def tiff(*entries: tuple[int, int, int]) -> bytes:
        rows = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
        return b"II*\0" + struct.pack("<IH", 8, len(entries)) + rows

    assert declared_size(tiff((256, 4, 67), (257, 3, 41))) == (67, 41)
    assert declared_size(tiff((256, 4, 67), (257, 4, 41), (256, 4, 6), (257, 4, 5))) is None
    assert declared_size(tiff((256, 16, 67), (257, 4, 41))) is None  # 64 bits, which are elsewhere
