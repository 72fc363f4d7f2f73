"""The built-in sample set: generated scenes with drawn faces, in WIDER FACE layout, made on first use from a seed.

It exists so that a fresh clone runs the whole job without a download. The faces are drawings: an average precision on
them says that the machinery works, nothing about photographs.
"""

import hashlib
import json
import logging
import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lib.arrays import FloatArray
from lib.data.images import write_rgb
from lib.errors import DataError
from lib.files import read_json, strangers, write_text
from lib.geometry.boxes import area

logger = logging.getLogger(__name__)

Image = NDArray[np.uint8]
VERSION = 1  # raise it when the drawings change: sets of another version are made anew
WIDTH_PX, HEIGHT_PX = 320, 256
TRAIN_SCENES, VAL_SCENES = 400, 100
_MANIFEST, _DIGEST = "manifest.json", "sha256"
_OURS = r"manifest\.json|wider_face_split/wider_face_\w+_bbx_gt\.txt|WIDER_\w+/images/0--Sample/0_Sample_\d+\.jpg"
_PATCH_W, _PATCH_H = 96, 128  # a face is drawn at this size, then scaled and turned into the scene
_SKIN = np.array(
    [(255, 219, 186), (241, 194, 150), (224, 172, 120), (172, 118, 78), (118, 75, 48), (80, 52, 36)], float
)


@dataclass(frozen=True)
class SampleSet:
    """Where the parts of a sample set are."""

    train_annotations: Path
    train_images: Path
    val_annotations: Path
    val_images: Path


def ensure_samples(
    folder: str | os.PathLike[str], seed: int = 0, train_scenes: int = TRAIN_SCENES, val_scenes: int = VAL_SCENES
) -> SampleSet:
    """The sample set in `folder`, made now unless one of the same version, seed and size is there already.

    A set of another version, seed or size is replaced, but only if every file in the folder is as it was drawn.

    Raises:
        DataError: the folder holds something else, or a set that somebody has changed; or it cannot be written.

    """
    root = Path(folder)
    wanted = {"version": VERSION, "seed": seed, "train_scenes": train_scenes, "val_scenes": val_scenes}
    try:
        if _manifest(root) != wanted:
            _require_ours(root)
            _make(root, wanted)
    except OSError as error:
        raise DataError(f"{root}: the sample set cannot be made here ({error}); set DATA.sample_path") from error
    split = root / "wider_face_split"
    return SampleSet(
        split / "wider_face_train_bbx_gt.txt",
        root / "WIDER_train" / "images",
        split / "wider_face_val_bbx_gt.txt",
        root / "WIDER_val" / "images",
    )


def _manifest(root: Path) -> dict[str, Any] | None:
    """What the set in a folder is, its digest left out; None where there is none."""
    try:
        content = read_json(root / _MANIFEST)
    except (OSError, ValueError, RecursionError):
        return None
    return {key: value for key, value in content.items() if key != _DIGEST} if isinstance(content, dict) else None


def _require_ours(root: Path) -> None:
    """Raises DataError unless there is nothing at `root`, or a sample set just as it was drawn."""
    if not root.exists() or not any(root.iterdir()):
        return
    foreign = strangers(root, _OURS)
    if foreign or not (root / _MANIFEST).is_file():
        shown = f" ({foreign[0]}{' and more' if len(foreign) > 1 else ''})" if foreign else ""
        raise DataError(f"{root}: not empty and no sample set{shown}; choose another DATA.sample_path")
    manifest = _manifest(root)
    if manifest is None or (root / _MANIFEST).read_bytes() != _text(root, manifest).encode():
        raise DataError(
            f"{root}: a sample set of another version, seed or size that is not as it was drawn; remove the folder if "
            "nobody needs it, or choose another DATA.sample_path"
        )


def _text(root: Path, wanted: dict[str, Any]) -> str:
    """The manifest of such a set with the files that are there."""
    return json.dumps({**wanted, _DIGEST: _digest(root, wanted)}, indent=2) + "\n"


def _digest(root: Path, wanted: dict[str, Any]) -> str:
    """SHA-256 over what the set is, and the names and bytes of all its files but its manifest."""
    digest = hashlib.sha256(json.dumps(wanted).encode())
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        name = file.relative_to(root).as_posix()
        if name != _MANIFEST:
            digest.update(f"{name} {file.stat().st_size}\n".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _make(root: Path, wanted: dict[str, int]) -> None:
    """Draws everything beside `root`, then puts it in place with one rename."""
    logger.info("drawing the sample set into %s", root)
    place = root.resolve()
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{place.name}.", dir=place.parent) as aside:
        work = Path(aside) / "set"  # the outer folder is for its owner alone, and stays so
        work.mkdir()
        for number, (split, count) in enumerate((("train", wanted["train_scenes"]), ("val", wanted["val_scenes"]))):
            lines = []
            for index in range(count):
                image, boxes = draw_scene(np.random.default_rng([wanted["seed"], number, index]))
                name = f"0--Sample/0_Sample_{index:04d}.jpg"
                write_rgb(work / f"WIDER_{split}" / "images" / name, image)
                lines += [name, str(len(boxes))]
                xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).astype(int)
                rows = xywh.tolist() or [[0, 0, 0, 0]]
                lines += [f"{x} {y} {w} {h} 0 0 0 0 0 0" for x, y, w, h in rows]
            write_text(work / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt", "\n".join(lines) + "\n")
        write_text(work / _MANIFEST, _text(work, wanted))
        if place.exists():
            place.rename(Path(aside) / "before")  # proved ours, and gone with the folder
        try:
            work.rename(place)
        except OSError:
            if _manifest(root) != wanted:  # unless another process was faster with the same set
                raise


def draw_scene(rng: np.random.Generator) -> tuple[Image, FloatArray]:
    """One scene: uint8 RGB [256, 320, 3] and its faces [n, 4] xyxy in whole px; one in twelve has none."""
    image = _background(rng)
    for _ in range(rng.integers(3, 9)):
        _draw_distractor(image, rng)
    faces = np.zeros((0, 4), np.float32)
    patches = []
    wanted = 0 if rng.random() < 1 / 12 else int(rng.integers(1, 9))
    for _ in range(wanted):
        height = float(np.exp(rng.uniform(math.log(16), math.log(110))))
        patch, mask, box = _draw_face(rng, height)
        h, w = mask.shape
        if w >= WIDTH_PX or h >= HEIGHT_PX:
            continue
        x, y = int(rng.integers(0, WIDTH_PX - w)), int(rng.integers(0, HEIGHT_PX - h))
        face = (box + np.array([x, y, x, y])).astype(np.float32)[None]
        if len(faces) and _largest_cover(face, faces) > 0.15:
            continue
        faces = np.concatenate([faces, face])
        patches.append((slice(y, y + h), slice(x, x + w), patch, mask))
    for face in faces:
        _draw_shoulders(image, rng, face)
    for rows, columns, patch, mask in patches:
        image[rows, columns] = mask[..., None] * patch + (1 - mask[..., None]) * image[rows, columns]
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.9))
    gain = rng.uniform(0.7, 1.2)
    noise = rng.normal(0, rng.uniform(1, 7), image.shape)
    return np.clip(image * gain + noise, 0, 255).astype(np.uint8), faces


def _largest_cover(face: FloatArray, faces: FloatArray) -> float:
    """The largest share of the smaller box that `face` [1, 4] and any of `faces` [n, 4] have in common."""
    top_left, bottom_right = np.maximum(face[:, :2], faces[:, :2]), np.minimum(face[:, 2:], faces[:, 2:])
    overlap = area(np.concatenate([top_left, bottom_right], axis=1))
    return float((overlap / np.minimum(area(face), area(faces))).max())


def _background(rng: np.random.Generator) -> Image:
    """Soft noise at three scales between two colours, with a few polygons and lines."""
    field = np.zeros((HEIGHT_PX, WIDTH_PX), np.float32)
    for cells, strength in ((3, 1.0), (9, 0.6), (40, 0.3)):
        grid = rng.random((cells, cells), np.float32)
        field += strength * cv2.resize(grid, (WIDTH_PX, HEIGHT_PX), interpolation=cv2.INTER_CUBIC)
    field = np.clip(field / 1.9, 0, 1)[..., None]
    first, second = rng.uniform(20, 235, (2, 3))
    image = (first * field + second * (1 - field)).astype(np.uint8)
    for _ in range(rng.integers(2, 7)):
        corners = rng.integers(0, (WIDTH_PX, HEIGHT_PX), (int(rng.integers(3, 6)), 2)).astype(np.int32)
        cv2.fillPoly(image, [corners], _colour(rng), cv2.LINE_AA)
    for _ in range(rng.integers(0, 6)):
        a, b = rng.integers(0, (WIDTH_PX, HEIGHT_PX), (2, 2)).tolist()
        cv2.line(image, a, b, _colour(rng), int(rng.integers(1, 5)), cv2.LINE_AA)
    return image


def _draw_distractor(image: Image, rng: np.random.Generator) -> None:
    """Something round that is no face: a ball, a hand-coloured blob, a wheel, a sign with two dots."""
    centre = (int(rng.integers(0, WIDTH_PX)), int(rng.integers(0, HEIGHT_PX)))
    radius = int(rng.integers(6, 40))
    axes = (radius, int(radius * rng.uniform(0.7, 1.4)))
    skin = rng.random() < 0.5
    colour = _skin(rng) if skin else _colour(rng)
    cv2.ellipse(image, centre, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
    kind = rng.integers(0, 4)
    if kind == 0:
        cv2.circle(image, centre, max(1, radius // 2), _colour(rng), max(1, radius // 8), cv2.LINE_AA)
    elif kind == 1:
        offset = max(1, radius // 3)
        for sign in (-1, 1):
            dot = (centre[0], centre[1] + sign * offset)
            cv2.circle(image, dot, max(1, radius // 7), _colour(rng), -1, cv2.LINE_AA)
    elif kind == 2:
        cv2.line(image, (centre[0] - radius, centre[1]), (centre[0] + radius, centre[1]), _colour(rng), 2, cv2.LINE_AA)


def _draw_shoulders(image: Image, rng: np.random.Generator, box: FloatArray) -> None:
    x1, y1, x2, y2 = box.tolist()
    width, height = x2 - x1, y2 - y1
    spread, depth = rng.uniform(0.5, 1.0) * width, rng.uniform(0.5, 1.5) * height
    neck = [(x1 + 0.3 * width, y2 - 0.15 * height), (x2 - 0.3 * width, y2 - 0.15 * height)]
    hem = [(x2 + spread, y2 + depth), (x1 - spread, y2 + depth)]
    shoulder = [(x2 + 0.8 * spread, y2 + 0.3 * height), (x1 - 0.8 * spread, y2 + 0.3 * height)]
    outline = [*neck, shoulder[0], *hem, shoulder[1]]
    cv2.fillPoly(image, [np.asarray(outline, np.int32)], _colour(rng), cv2.LINE_AA)


def _draw_face(rng: np.random.Generator, height_px: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """A face of about `height_px`: colours [h, w, 3], opacity [h, w] 0..1, and its box in the patch."""
    pad = 40
    w, h = _PATCH_W + 2 * pad, _PATCH_H + 2 * pad
    centre = (w // 2, h // 2)
    aspect = rng.uniform(0.68, 0.85)
    axes = (int(_PATCH_H / 2 * aspect), _PATCH_H // 2)
    colour, mask = np.zeros((h, w, 3), np.uint8), np.zeros((h, w), np.uint8)
    skin, hair = _skin(rng), tuple((rng.uniform(0.1, 0.9) * np.array((90, 70, 50)) * rng.uniform(0.3, 2)).tolist())
    yaw = rng.uniform(-0.25, 0.25) * axes[0]

    hair_axes = (int(axes[0] * rng.uniform(1.05, 1.3)), int(axes[1] * rng.uniform(1.02, 1.2)))
    if rng.random() < 0.85:
        for target, value in ((colour, hair), (mask, 255)):
            cv2.ellipse(target, (centre[0], centre[1] - 6), hair_axes, 0, 180, 360, value, -1, cv2.LINE_AA)
            if rng.random() < 0.4:
                cv2.ellipse(target, centre, (hair_axes[0], axes[1]), 0, 0, 360, value, -1, cv2.LINE_AA)
    for target, value in ((colour, skin), (mask, 255)):
        cv2.ellipse(target, centre, axes, 0, 0, 360, value, -1, cv2.LINE_AA)
    if rng.random() < 0.7:  # fringe
        fringe = (axes[0] - 8, int(rng.uniform(10, 26)))
        cv2.ellipse(colour, (centre[0], centre[1] - axes[1] + 8), fringe, 0, 0, 360, hair, -1, cv2.LINE_AA)
    _draw_features(colour, rng, centre, axes, yaw, skin, hair)
    if rng.random() < 0.15:  # a mask or scarf over mouth and chin
        cover = np.zeros((h, w), np.uint8)
        cv2.ellipse(cover, centre, axes, 0, 0, 360, 255, -1)
        cover[: centre[1] + 8] = 0
        colour[cover > 0] = _colour(rng)

    shading = 1 + rng.uniform(-0.3, 0.3) * (np.arange(w) - centre[0]) / axes[0]
    lit = np.clip(colour * shading[None, :, None], 0, 255).astype(np.float32)
    turn, scale = float(rng.uniform(-25, 25)), height_px / _PATCH_H
    size = (max(8, math.ceil(w * scale)), max(8, math.ceil(h * scale)))
    rotation = cv2.getRotationMatrix2D(centre, turn, 1.0)
    turned = cv2.warpAffine(lit, rotation, (w, h), flags=cv2.INTER_LINEAR)
    turned_mask = cv2.warpAffine(mask, rotation, (w, h), flags=cv2.INTER_LINEAR)
    small = np.asarray(cv2.resize(turned, size, interpolation=cv2.INTER_AREA), np.float32)
    small_mask = np.asarray(cv2.resize(turned_mask, size, interpolation=cv2.INTER_AREA), np.float32) / 255
    # Extent of the turned ellipse.
    angle = math.radians(turn)
    half_w = math.hypot(axes[0] * math.cos(angle), axes[1] * math.sin(angle))
    half_h = math.hypot(axes[0] * math.sin(angle), axes[1] * math.cos(angle))
    sx, sy = size[0] / w, size[1] / h
    corners = np.array([centre[0] - half_w, centre[1] - half_h, centre[0] + half_w, centre[1] + half_h])
    return small, small_mask, np.round(corners * [sx, sy, sx, sy])


def _draw_features(
    colour: Image,
    rng: np.random.Generator,
    centre: tuple[int, int],
    axes: tuple[int, int],
    yaw: float,
    skin: tuple[float, ...],
    hair: tuple[float, ...],
) -> None:
    """Eyes, brows, nose, mouth, sometimes glasses, shifted sideways by `yaw` px."""
    cx, cy = centre[0] + yaw, centre[1]
    eye_y, eye_dx = cy - axes[1] * rng.uniform(0.1, 0.22), axes[0] * rng.uniform(0.38, 0.48)
    dark = tuple(0.45 * c for c in skin)
    glasses = rng.random() < 0.2
    for sign in (-1, 1):
        eye = (round(cx + sign * eye_dx), round(eye_y))
        if glasses and rng.random() < 0.5:
            cv2.circle(colour, eye, 14, (25, 25, 25), -1, cv2.LINE_AA)
        else:
            cv2.ellipse(colour, eye, (10, int(rng.integers(4, 7))), 0, 0, 360, (240, 240, 240), -1, cv2.LINE_AA)
            cv2.circle(colour, eye, 4, (40, 30, 25), -1, cv2.LINE_AA)
        if glasses:
            cv2.circle(colour, eye, 14, (30, 30, 30), 2, cv2.LINE_AA)
        brow = int(eye_y - rng.uniform(11, 16))
        cv2.line(colour, (eye[0] - 11, brow + 2 * sign), (eye[0] + 11, brow - 2 * sign), hair, 4, cv2.LINE_AA)
    nose_y = round(cy + axes[1] * 0.18)
    cv2.line(colour, (round(cx), round(eye_y + 8)), (round(cx + 4), nose_y), dark, 2, cv2.LINE_AA)
    cv2.ellipse(colour, (round(cx), nose_y), (8, 4), 0, 0, 180, dark, 2, cv2.LINE_AA)
    mouth = (round(cx), round(cy + axes[1] * rng.uniform(0.45, 0.58)))
    lips = (rng.uniform(140, 210), rng.uniform(50, 90), rng.uniform(60, 100))
    cv2.ellipse(colour, mouth, (int(rng.integers(13, 22)), int(rng.integers(3, 9))), 0, 0, 360, lips, -1, cv2.LINE_AA)


def _colour(rng: np.random.Generator) -> tuple[float, ...]:
    return tuple(rng.uniform(10, 245, 3).tolist())


def _skin(rng: np.random.Generator) -> tuple[float, ...]:
    share = rng.random()
    a, b = _SKIN[rng.integers(0, len(_SKIN), 2)]
    return tuple((share * a + (1 - share) * b).tolist())
