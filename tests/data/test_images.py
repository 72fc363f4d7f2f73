from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest

from lib.data.images import read_rgb, write_rgb
from lib.errors import DataError


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
