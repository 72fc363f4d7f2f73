"""Training samples as the network gets them, with the faces and the anchors that have to find them, in one picture."""

import math
import os

import cv2
import numpy as np

from lib.arrays import FloatArray, IntArray
from lib.data.augment import Image
from lib.data.batches import FaceDataset
from lib.data.images import write_rgb
from lib.geometry.anchors import AnchorSpec, anchor_grid, decode
from lib.geometry.boxes import cxcywh_to_xyxy

FACE_RGB = (0, 230, 90)
LEVELS_RGB = (
    (255, 230, 0),
    (255, 140, 0),
    (255, 60, 60),
    (230, 60, 255),
    (90, 120, 255),
    (0, 220, 255),
)  # finest first
_GAP_PX = 4
_TEXT_PX = 20  # height of the strip with the counts


def write_samples(path: str | os.PathLike[str], dataset: FaceDataset, count: int = 16, tile_px: int = 400) -> None:
    """Writes a grid of the first `count` samples of the dataset's epoch: faces thick, matched anchors thin, by level.

    The file is whole or absent; its suffix says the format.
    """
    spec, drawn = dataset.target_spec, list[Image]()
    for index in range(min(len(dataset), math.ceil(count / dataset.batch_size))):
        images, targets = dataset[index]
        by_shot = [targets[f"{shot}boxes"] for shot in spec.shots]
        boxes = np.stack(by_shot, axis=2).reshape(len(images), -1, 5)
        drawn += [draw_targets(*sample, spec.anchors, tile_px) for sample in zip(images, boxes, strict=True)]
    write_rgb(path, _grid(drawn[:count]))


def draw_targets(image_rgb: Image, boxes: FloatArray, anchors: AnchorSpec, side_px: int) -> Image:
    """One sample, its longer side scaled to `side_px`, with what it has to teach, below a line of text.

    Args:
        image_rgb: uint8 [H, W, 3].
        boxes: [n, 5] targets, as from `TargetSpec.of_image`: the faces are read back out of them.

    """
    height, width = image_rgb.shape[:2]
    positive = np.flatnonzero(boxes[:, 4])
    scale = side_px / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = np.asarray(cv2.resize(image_rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
    pixels = np.tile(size, 2)
    if anchors.matched_in_training:
        faces = np.round(boxes[positive, :4] * pixels).astype(np.int64)
        text = f"{len(faces)} faces, {width} x {height} px"
    else:
        faces = _draw_anchors(picture, boxes, anchors, (height, width))
        text = f"{len(faces)} faces, {len(positive)} anchors, {width} x {height} px"
    for corners in faces:
        _frame(picture, corners, FACE_RGB, 2)
    strip = np.zeros((_TEXT_PX, picture.shape[1], 3), np.uint8)
    cv2.putText(strip, text, (4, _TEXT_PX - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
    return np.concatenate([strip, picture])


def _draw_anchors(picture: Image, boxes: FloatArray, anchors: AnchorSpec, size_px: tuple[int, int]) -> IntArray:
    """Draws the positive anchors of an input of that size; returns the faces that they stand for, px of the picture."""
    height, width = size_px
    grid, positive = anchor_grid(anchors, height, width), np.flatnonzero(boxes[:, 4])
    pixels = np.tile(picture.shape[1::-1], 2)
    per_level = np.array([rows * columns for rows, columns in anchors.grid_shapes(height, width)])
    ends = np.cumsum(per_level * (len(grid) // per_level.sum()))
    levels = np.searchsorted(ends, positive, side="right")
    for level, corners in zip(levels, cxcywh_to_xyxy(grid[positive]) * pixels, strict=True):
        _frame(picture, corners, LEVELS_RGB[level % len(LEVELS_RGB)], 1)
    # All anchors of a face say where it is: in a picture one of them is enough.
    decoded = decode(boxes[positive, :4], grid[positive], anchors.code)
    return np.unique(np.round(decoded * pixels).astype(np.int64), axis=0)


def _frame(picture: Image, corners_xyxy_px: FloatArray, colour: tuple[int, int, int], line: int) -> None:
    x1, y1, x2, y2 = np.round(corners_xyxy_px).astype(int).tolist()
    cv2.rectangle(picture, (x1, y1), (x2, y2), colour, line)


def _grid(pictures: list[Image]) -> Image:
    """Pictures in rows, as square as it goes, each at the upper left of its place."""
    columns = math.ceil(math.sqrt(len(pictures)))
    height = max(picture.shape[0] for picture in pictures) + _GAP_PX
    width = max(picture.shape[1] for picture in pictures) + _GAP_PX
    whole = np.full((math.ceil(len(pictures) / columns) * height, columns * width, 3), 255, np.uint8)
    for place, picture in enumerate(pictures):
        top, left = place // columns * height, place % columns * width
        whole[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return whole
