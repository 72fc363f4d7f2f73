"""Detections drawn into pictures: one image, a folder of them, or the frames of a video or camera."""

import logging
import os
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from lib.arrays import FloatArray
from lib.data.images import IMAGE_SUFFIXES, image_files, read_rgb, write_rgb
from lib.errors import DataError
from lib.files import replacing

logger = logging.getLogger(__name__)

Image = NDArray[np.uint8]
# [H, W, 3] -> [n, 5] x1, y1, x2, y2 in pixels, score; or that and landmarks [n, k, 2]
Detect = Callable[[Image], FloatArray | tuple[FloatArray, FloatArray]]
Report = Callable[[str, int], None]  # called with what was drawn and the number of faces
Show = Callable[[Image], bool]  # shows a picture; False: stop

BOX_RGB = (0, 230, 90)
LANDMARK_RGB = (255, 60, 60)
TEXT_RGB = (0, 0, 0)
FALLBACK_FPS = 25.0  # cameras often do not know theirs


def draw_detections(image_rgb: Image, detections: FloatArray, landmarks: FloatArray | None = None) -> Image:
    """A copy of the image with a frame around every face, its score in percent above it, and dots for its landmarks.

    Args:
        image_rgb: uint8 [H, W, 3].
        detections: [n, 5] x1, y1, x2, y2 in pixels, and score; boxes may reach beyond the image.
        landmarks: [n, k, 2] x, y in pixels.

    """
    picture = image_rgb.copy()
    height, width = picture.shape[:2]
    line = max(1, round(min(height, width) / 400))
    for x1, y1, x2, y2, score in reversed(detections.tolist()):  # the best on top
        corners = np.clip([x1, y1, x2, y2], -line, [width + line, height + line] * 2).round().astype(int).tolist()
        cv2.rectangle(picture, corners[:2], corners[2:], BOX_RGB, line)
        _label(picture, f"{score:.0%}", corners[0], corners[1], (corners[2] - corners[0]) / 60, line)
    for x, y in [] if landmarks is None else np.clip(landmarks, -line, [width + line, height + line]).reshape(-1, 2):
        cv2.circle(picture, (round(float(x)), round(float(y))), line, LANDMARK_RGB, cv2.FILLED)
    return picture


def _label(picture: Image, text: str, left: int, top: int, scale: float, line: int) -> None:
    """Text on a filled ground just above (left, top), or below it at the image's upper edge."""
    scale = float(np.clip(scale, 0.3, 0.3 + 0.2 * line))
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    left = int(np.clip(left, 0, max(0, picture.shape[1] - width)))
    bottom = top if top >= height + below else max(top, 0) + height + below
    cv2.rectangle(picture, (left, bottom - height - below), (left + width, bottom), BOX_RGB, cv2.FILLED)
    cv2.putText(
        picture, text, (left, bottom - below // 2 - 1), cv2.FONT_HERSHEY_SIMPLEX, scale, TEXT_RGB, 1, cv2.LINE_AA
    )


def draw_source(source: str, output: str | os.PathLike[str], detect: Detect, report: Report, show: Show | None) -> int:
    """Draws detections into whatever `source` is, and writes the result into the folder `output`.

    Args:
        source: an image, a folder of images (folders in it too), a video file, or a camera's index. A video becomes
            an .mp4 of the same frames; a camera one that ends when `show` says so or the user interrupts.

    Returns:
        How many images of a folder could not be used; each is logged.

    Raises:
        DataError: the source cannot be read, the result cannot be written, or it would replace the source.

    """
    path, folder = Path(source), Path(output)
    if path.is_dir():
        return _draw_folder(path, folder, detect, report, show)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        _draw_image(path, _distinct(path, folder / path.name), detect, report, show)
    elif path.is_file():
        _draw_video(source, _distinct(path, folder / f"{path.stem}.mp4"), detect, report, show)
    elif source.isdecimal() and len(source) < 10:  # OpenCV takes 32 bits
        _draw_video(int(source), folder / f"camera{source}.mp4", detect, report, show)
    else:
        raise DataError(f"{source}: no such file or folder; expected an image, a folder, a video or a camera's index")
    return 0


def _draw_folder(source: Path, output: Path, detect: Detect, report: Report, show: Show | None) -> int:
    inside = output.resolve()
    if source.resolve() == inside:
        raise DataError(f"{output}: also the folder with the images, which would be replaced; choose another")
    files, unusable = image_files(source), 0
    if inside not in source.resolve().parents:
        # Pictures of an earlier call may lie inside the folder: they are not drawn upon again.
        files = [file for file in files if inside not in file.resolve().parents]
    if not files:
        raise DataError(f"{source}: all its images lie in {output}, the folder for the pictures; choose another")
    targets, sources = [output / file.relative_to(source) for file in files], {file.resolve() for file in files}
    for target in targets:
        if target.resolve() in sources:
            raise DataError(f"{target}: a picture would replace this source; choose another output folder")
    for path, target in zip(files, targets, strict=True):
        try:
            if not _draw_image(path, target, detect, report, show):
                break
        except DataError as error:
            logger.warning("%s", error)
            unusable += 1
    return unusable


def _draw_image(path: Path, output: Path, detect: Detect, report: Report, show: Show | None) -> bool:
    """False if the user wants no more."""
    image = read_rgb(path)
    picture, faces = _drawn(image, str(path), detect)
    write_rgb(output, picture)
    report(f"{path} -> {output}", faces)
    return show is None or show(picture)


def _draw_video(source: str | int, output: Path, detect: Detect, report: Report, show: Show | None) -> None:
    capture = cv2.VideoCapture(source)
    with closing(_frames(capture, source)) as frames, replacing(output) as temporary:
        writer, done, total = None, 0, 0
        try:
            for frame in frames:
                picture, faces = _drawn(frame, str(source), detect)
                if writer is None:
                    writer = _writer(temporary, output, capture.get(cv2.CAP_PROP_FPS), picture)
                writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
                done, total = done + 1, total + faces
                if show is not None and not show(picture):
                    break
        except KeyboardInterrupt:
            if isinstance(source, str) or not done:
                raise
            logger.info("camera stopped after %d frames", done)  # the only way to end a recording without a window
        finally:
            if writer is not None:
                writer.release()
    report(f"{source} -> {output}, {done} frames", total)


def _frames(capture: "cv2.VideoCapture", source: str | int) -> Generator[Image]:
    """The frames, RGB; DataError if there is none. Says so if a file ends before its own count."""
    try:
        count = 0
        while True:
            good, bgr = capture.read()
            if not good:
                break
            count += 1
            yield np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
        if not count:
            what = "camera" if isinstance(source, int) else "file: neither an image nor a video"
            raise DataError(f"{source}: not one frame can be read from this {what} (OpenCV's decoders were tried)")
        announced = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        if isinstance(source, str) and count < announced:
            logger.warning(
                "%s: %d of %d frames could be read; the rest is damaged or missing", source, count, announced
            )
    finally:
        capture.release()


def _writer(temporary: Path, output: Path, fps: float, picture: Image) -> "cv2.VideoWriter":
    rate = fps if 1 <= fps <= 240 else FALLBACK_FPS
    writer = cv2.VideoWriter(str(temporary), cv2.VideoWriter.fourcc(*"mp4v"), rate, picture.shape[1::-1])
    if not writer.isOpened():
        raise DataError(f"{output}: this OpenCV cannot write .mp4 videos; use a build with FFmpeg, or give images")
    return writer


def _drawn(image: Image, name: str, detect: Detect) -> tuple[Image, int]:
    try:
        found = detect(image)
    except ValueError as error:
        raise DataError(f"{name}: {error}") from error
    detections, landmarks = found if isinstance(found, tuple) else (found, None)
    return draw_detections(image, detections, landmarks), len(detections)


def _distinct(source: Path, output: Path) -> Path:
    """`output`, unless it is the source itself."""
    if output.resolve() == source.resolve():
        raise DataError(f"{output}: the picture would replace its source; choose another output folder")
    return output


def window(title: str) -> Show:
    """Opens a window for `draw_source`; q or Escape there stops.

    Raises:
        DataError: OpenCV was built without windows, or there is no display.

    """
    try:
        cv2.namedWindow(title, cv2.WINDOW_NORMAL)
    except cv2.error as error:
        raise DataError("no window can be opened: install opencv-python in place of the headless one") from error

    def show(picture: Image) -> bool:
        cv2.imshow(title, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        return (cv2.waitKey(1) & 0xFF) not in (ord("q"), 27)

    return show
