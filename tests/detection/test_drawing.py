from pathlib import Path

import cv2
import numpy as np
import pytest

from lib.arrays import FloatArray
from lib.data.images import read_rgb, write_rgb
from lib.detection.drawing import BOX_RGB, LANDMARK_RGB, Image, draw_detections, draw_source
from lib.errors import DataError

FACE = np.array([[20, 30, 60, 80, 0.9]], np.float32)


def detect(image: Image) -> FloatArray:
    if min(image.shape[:2]) < 16:
        raise ValueError("an image needs at least 16 px on both sides")
    return FACE


def draw(source: Path | str, output: Path) -> tuple[int, list[tuple[str, int]]]:
    reports: list[tuple[str, int]] = []
    unusable = draw_source(str(source), output, detect, lambda what, faces: reports.append((what, faces)), None)
    return unusable, reports


def grey(height: int = 120, width: int = 100) -> Image:
    return np.full((height, width, 3), 90, np.uint8)


def write_video(path: Path, frames: int = 5) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (100, 120))
    for _ in range(frames):
        writer.write(grey())
    writer.release()


def test_box_and_label_are_drawn_on_a_copy() -> None:
    image = grey()
    picture = draw_detections(image, FACE)
    assert (image == 90).all()
    assert (picture[80, 20:61] == BOX_RGB).all() and (picture[30:81, 60] == BOX_RGB).all()
    assert (picture[40:75, 25:55] == 90).all()  # the face itself stays
    assert (picture[20:30, 22:30] != 90).any()  # the score


def test_no_detection_changes_nothing() -> None:
    assert (draw_detections(grey(), np.zeros((0, 5), np.float32)) == 90).all()


def test_boxes_beyond_the_image_are_drawn_as_far_as_they_go() -> None:
    boxes = np.array([[-1e9, -50, 1e9, 500, 0.5], [90, 100, 300, 300, 0.4]], np.float32)
    assert draw_detections(grey(), boxes).shape == (120, 100, 3)


def test_image(tmp_path: Path) -> None:
    write_rgb(tmp_path / "a.png", grey())
    assert draw(tmp_path / "a.png", tmp_path / "out") == (0, [(f"{tmp_path}/a.png -> {tmp_path}/out/a.png", 1)])
    assert (read_rgb(tmp_path / "out" / "a.png") == draw_detections(grey(), FACE)).all()


def test_folder_keeps_its_structure_and_skips_what_is_unfit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = tmp_path / "images"
    write_rgb(images / "a.png", grey())
    write_rgb(images / "deep" / "b.jpg", grey())
    write_rgb(images / "small.png", grey(9, 9))
    (images / "broken.jpg").write_bytes(b"no image")
    (images / "notes.txt").write_text("no image either")
    output = images / "drawn"
    for _ in range(2):  # the second time the pictures lie there already
        unusable, reports = draw(images, output)
        assert (unusable, len(reports)) == (2, 2)
    assert {path.relative_to(output).as_posix() for path in output.rglob("*.*")} == {"a.png", "deep/b.jpg"}
    assert "broken.jpg" in caplog.text and "small.png" in caplog.text


def test_images_below_the_output_folder_are_drawn(tmp_path: Path) -> None:
    images = tmp_path / "out" / "images"
    write_rgb(images / "a.png", grey())
    assert draw(images, tmp_path / "out") == (0, [(f"{images}/a.png -> {tmp_path}/out/a.png", 1)])


def test_nothing_left_to_draw_is_said(tmp_path: Path) -> None:
    write_rgb(tmp_path / "drawn" / "a.png", grey())
    with pytest.raises(DataError, match="all its images lie in"):
        draw(tmp_path, tmp_path / "drawn")


def test_video_keeps_frames_and_size(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4")
    assert draw(tmp_path / "clip.mp4", tmp_path / "out")[1][0][1] == 5
    capture = cv2.VideoCapture(str(tmp_path / "out" / "clip.mp4"))
    frames = []
    while (frame := capture.read())[0]:
        frames.append(frame[1])
    assert len(frames) == 5 and frames[0].shape == (120, 100, 3)
    assert abs(frames[0][80, 40, 1].astype(int) - BOX_RGB[1]) < 60  # green, as far as compression keeps it
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(10)


def test_show_can_stop_a_video(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4")
    shown: list[Image] = []

    def show(picture: Image) -> bool:
        shown.append(picture)
        return len(shown) < 2

    draw_source(str(tmp_path / "clip.mp4"), tmp_path / "out", detect, lambda *_: None, show)
    assert len(shown) == 2


class FakeCamera:
    """Three frames, then the user interrupts."""

    def __init__(self, index: int) -> None:
        self.frames = 0

    def read(self) -> tuple[bool, Image]:
        self.frames += 1
        if self.frames > 3:
            raise KeyboardInterrupt
        return True, grey()

    def get(self, name: int) -> float:
        return 0.0

    def release(self) -> None:
        pass


def test_interrupted_camera_leaves_a_whole_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", FakeCamera)
    _, reports = draw("0", tmp_path / "out")
    assert reports == [(f"0 -> {tmp_path}/out/camera0.mp4, 3 frames", 3)]
    monkeypatch.undo()
    assert cv2.VideoCapture(str(tmp_path / "out" / "camera0.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("broken.jpg", b"no image", r"broken\.jpg: not an image"),
        ("clip.mp4", b"no video", r"clip\.mp4: not one frame"),
        ("empty.avi", b"", r"empty\.avi: not one frame"),
        ("missing.mp4", None, r"missing\.mp4: no such file"),
        ("9" * 11, None, r"99999: no such file"),
        ("missing.png", None, r"missing\.png: cannot be read"),
    ],
)
def test_unreadable_source_is_named(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        draw(name if name.isdecimal() else tmp_path / name, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*"))


def test_truncated_video_is_refused(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", frames=30)
    data = (tmp_path / "clip.mp4").read_bytes()
    (tmp_path / "clip.mp4").write_bytes(data[: len(data) // 2])  # the index is at the end
    with pytest.raises(DataError, match=r"clip\.mp4"):
        draw(tmp_path / "clip.mp4", tmp_path / "out")


def test_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image in it"):
        draw(tmp_path, tmp_path / "out")


def test_nothing_is_replaced(tmp_path: Path) -> None:
    write_rgb(tmp_path / "a.png", grey())
    write_video(tmp_path / "clip.mp4")
    for source in (tmp_path, tmp_path / "a.png", tmp_path / "clip.mp4"):
        with pytest.raises(DataError, match="replace"):
            draw(source, tmp_path)
    images = tmp_path / "images"
    write_rgb(images / "images" / "a.png", grey())
    write_rgb(images / "a.png", grey())
    with pytest.raises(DataError, match=r"images/a\.png: a picture would replace"):
        draw(images, tmp_path)
    assert (read_rgb(images / "a.png") == 90).all()
    assert (read_rgb(tmp_path / "a.png") == 90).all()


def test_landmarks_are_dots() -> None:
    picture = draw_detections(grey(), FACE, np.array([[[50, 60], [1e9, -5]]], np.float32))
    assert tuple(picture[60, 50]) == LANDMARK_RGB
    plain = draw_detections(grey(), FACE)
    assert (picture != plain).any(axis=2).sum() < 20
