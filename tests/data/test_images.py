import errno
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest

from lib.data.images import image_files, read_rgb, write_rgb
from lib.errors import DataError
from lib.limits import allowing


def _image(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)


def test_lossless_round_trip_in_rgb(tmp_path: Path, rng: np.random.Generator) -> None:
    image = _image(rng)
    write_rgb(tmp_path / "a.png", image)
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), image)
    bgr = cv2.imread(str(tmp_path / "a.png"))
    assert bgr is not None
    assert bgr[0, 0].tolist() == image[0, 0, ::-1].tolist()


def test_grey_and_alpha_become_rgb(tmp_path: Path, rng: np.random.Generator) -> None:
    grey, rgba = _image(rng)[..., 0], rng.integers(0, 256, (40, 60, 4), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "grey.png"), grey)
    cv2.imwrite(str(tmp_path / "rgba.png"), rgba)
    np.testing.assert_array_equal(read_rgb(tmp_path / "grey.png"), np.repeat(grey[..., None], 3, axis=2))
    np.testing.assert_array_equal(read_rgb(tmp_path / "rgba.png"), rgba[..., 2::-1])


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_truncated_files_are_refused(tmp_path: Path, rng: np.random.Generator, suffix: str, share: float) -> None:
    file = tmp_path / f"a{suffix}"
    write_rgb(file, _image(rng))
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    with pytest.raises(DataError, match=rf"{file}: .*(cut short|not an image)"):
        read_rgb(file)


def test_a_thumbnails_end_is_not_the_images_end(tmp_path: Path, rng: np.random.Generator) -> None:
    file = tmp_path / "a.jpg"
    write_rgb(file, _image(rng))
    data = file.read_bytes()
    thumbnail = b"\xff\xe1\x00\x08abcd\xff\xd9"  # an application segment that holds an end marker
    file.write_bytes(data[:2] + thumbnail + data[2:])
    assert read_rgb(file).shape == (40, 60, 3)
    file.write_bytes((data[:2] + thumbnail + data[2:])[:-40])
    with pytest.raises(DataError, match="cut short"):
        read_rgb(file)


def test_no_image(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_rgb(tmp_path / "absent.jpg")
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(DataError, match="not an image"):
        read_rgb(tmp_path / "empty.jpg")
    (tmp_path / "text.jpg").write_text("hello")
    with pytest.raises(DataError, match="not an image"):
        read_rgb(tmp_path / "text.jpg")


def test_sixteen_bits_become_eight(tmp_path: Path, rng: np.random.Generator) -> None:
    deep = rng.integers(0, 65536, (40, 60, 3), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    np.testing.assert_allclose(read_rgb(tmp_path / "deep.png"), deep[..., ::-1] / 257, atol=1)


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_jpegs_of_every_colour_space_become_rgb(tmp_path: Path, mode: str) -> None:
    picture = PIL.Image.new("RGB", (64, 48), (200, 120, 40)).convert(mode)
    picture.save(tmp_path / "a.jpg", quality=95)
    expected = np.asarray(picture.convert("RGB"))
    read = read_rgb(tmp_path / "a.jpg")
    assert read.shape == (48, 64, 3)
    np.testing.assert_allclose(read, expected, atol=3)


def test_turned_photographs_are_read_as_a_viewer_shows_them(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # orientation: turn clockwise
    picture = PIL.Image.new("RGB", (64, 48))
    picture.paste((255, 255, 255), (0, 0, 32, 48))
    picture.save(tmp_path / "a.jpg", exif=exif, quality=95)
    read = read_rgb(tmp_path / "a.jpg")
    assert read.shape == (64, 48, 3)
    assert read[:24].min() > 200
    assert read[40:].max() < 50


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("behind", [b"\0", b"x" * 5000, b"\xff\xd8\xff", b"IEND"])
def test_bytes_behind_the_end_are_no_matter(
    tmp_path: Path, rng: np.random.Generator, suffix: str, behind: bytes
) -> None:
    file = tmp_path / f"a{suffix}"
    write_rgb(file, _image(rng))
    expected = read_rgb(file)
    file.write_bytes(file.read_bytes() + behind)
    np.testing.assert_array_equal(read_rgb(file), expected)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(width: int, height: int, rows: bytes, *chunks: bytes, bits: int = 8) -> bytes:
    """A grey PNG; the rows are not checked against the size."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0))
    body = _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + body


def test_an_image_that_says_it_is_too_large_is_refused_before_it_is_decoded(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    write_rgb(tmp_path / "small.jpg", _image(rng))
    data = (tmp_path / "small.jpg").read_bytes()
    frame = data.index(b"\xff\xc0")
    large = {
        "png": _png(1 << 16, 1 << 15, b""),
        "jpg": data[: frame + 5] + struct.pack(">HH", 30000, 30000) + data[frame + 9 :],
        "bmp": b"BM" + bytes(12) + struct.pack("<Iii", 40, 60000, -60000) + bytes(40),
        "ppm": b"P6 60000 60000 255 ",
        "tiff": b"II*\0" + struct.pack("<IHHHIIHHII", 8, 2, 256, 4, 1, 60000, 257, 4, 1, 60000),
        "webp": b"RIFF\0\0\0\0WEBPVP8X" + bytes(8) + b"\xff\xff\x3f\xff\xff\x3f",
        "gif": b"GIF89a" + struct.pack("<HH", 65535, 65535),
    }
    for kind, content in large.items():
        (tmp_path / f"large.{kind}").write_bytes(content)
        with pytest.raises(DataError, match=rf"large\.{kind}: says that it has .* px; at most 150,000,000 pixels"):
            read_rgb(tmp_path / f"large.{kind}")
    with (
        allowing(max_pixels=2399),
        pytest.raises(DataError, match=r"says that it has 60x40 px; .* or raise LIMITS\.max_pixels in the config"),
    ):
        read_rgb(tmp_path / "small.jpg")
    with allowing(max_pixels=2400):
        assert read_rgb(tmp_path / "small.jpg").shape == (40, 60, 3)


def test_opencvs_own_refusal_does_not_escape(tmp_path: Path) -> None:
    (tmp_path / "flat.png").write_bytes(_png(1 << 21, 1, b""))  # more than OpenCV's widest
    with pytest.raises(DataError, match="not an image"):
        read_rgb(tmp_path / "flat.png")


def test_a_pipe_or_a_name_that_cannot_be_is_no_image(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(DataError, match="no file, but a folder, pipe or device"):
        read_rgb(tmp_path / "pipe.jpg")
    with pytest.raises(DataError, match="no file, but a folder"):
        read_rgb(tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        read_rgb("a\0b.jpg")


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_samples_of_fewer_bits_than_their_file_are_not_black(tmp_path: Path, bits: int) -> None:
    ramp = np.linspace(0, 2**bits - 1, 64 * 64).astype(np.uint16).reshape(64, 64)
    cv2.imwrite(str(tmp_path / "deep.png"), ramp)
    np.testing.assert_allclose(read_rgb(tmp_path / "deep.png")[..., 0], ramp / 2 ** (bits - 8), atol=1)


def test_a_dark_image_that_says_its_bits_stays_dark(tmp_path: Path) -> None:
    rows = b"".join(b"\0" + struct.pack(">H", 500) * 8 for _ in range(8))
    for said, expected in ((b"\x0c", 500 >> 4), (b"\x10", 500 >> 8)):
        (tmp_path / "dark.png").write_bytes(_png(8, 8, rows, _chunk(b"sBIT", said), bits=16))
        assert (read_rgb(tmp_path / "dark.png") == expected).all()


def test_what_a_folder_holds_besides_is_counted_and_named(
    tmp_path: Path, rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.jfif", "b.HEIC", "c.tiff", "d.tiff", "labels.txt"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"no image in it; .*1 \.jfif, 1 \.HEIC, 2 \.tiff left out, .*a\.jfif"):
        image_files(tmp_path)
    write_rgb(tmp_path / "e.png", _image(rng))
    assert image_files(tmp_path) == [tmp_path / "e.png"]
    assert "1 .jfif, 1 .HEIC, 2 .tiff left out" in caplog.text


def test_linked_folders_are_looked_into_once(tmp_path: Path) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    (data / "event").mkdir(parents=True)
    elsewhere.mkdir()
    for file in (data / "a.jpg", data / "event" / "b.jpg", elsewhere / "c.jpg"):
        file.touch()
    (data / "linked").symlink_to(elsewhere)
    (data / "event" / "round").symlink_to(data)  # a circle
    (elsewhere / "again").symlink_to(data / "event")
    (data / "linked.jpg").symlink_to(elsewhere / "c.jpg")
    names = [file.relative_to(data).as_posix() for file in image_files(data)]
    assert names == ["a.jpg", "event/b.jpg", "linked/c.jpg", "linked.jpg"]


def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.jpg").touch()
    (tmp_path / "closed").mkdir()
    look = os.scandir

    def scandir(path: str) -> object:
        if path == str(tmp_path / "closed"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return look(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert image_files(tmp_path) == [tmp_path / "a.jpg"]
    assert "closed: left out, Permission denied" in caplog.text
