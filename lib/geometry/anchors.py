"""Anchor grids, the box code and its inverse. NumPy only.

Boxes here are relative to the network's input: x by its width, y by its height. Anchors are ordered level by level from
the finest, row-major within a level, and within a cell by the spec's scales, like the network's outputs.
"""

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np

from lib.arrays import FloatArray
from lib.geometry.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh

# Offsets are divided by these: centre offsets by the first, log sizes by the second (SSD, arXiv 1512.02325).
VARIANCES = (0.1, 0.2)
# Decoded sizes stay below e^10 anchors: an untrained network gives huge boxes, not infinite ones.
MAX_LOG_SIZE = 10.0
# Offsets of corners, in anchor sizes, are multiplied by this (Pruned DSFD).
CORNER_SCALE = 5.0

Code = Literal["centre", "corners", "plain"]
Scoring = Literal["softmax", "geometric mean"]


@dataclass(frozen=True)
class AnchorSpec:
    """What fixes the anchors of a model at every input size, and what its outputs say about each of them.

    Attributes:
        strides: pixels from cell to cell, one a level, finest first; each twice the one before.
        sizes: anchor widths in pixels at scale 1, one a level.
        ratio: height / width of every anchor (1.25: the published EResFD weights, 1.0: the B-FPGM models, 1.5: DSFD).
        scales: one anchor a cell for each, its width in `sizes`. EResFD has one; DSFD's second shot has scale 1 and its
            first shot, on the maps before they are enhanced, 0.5.
        code: what the network's offsets mean. "centre": of the centre and the logarithm of the size (SSD, EResFD);
            "corners": of the two corners (DSFD); "plain": as "centre", but divided by nothing (YuNet).
        place: where in its cell an anchor's centre lies, from 0, the upper left corner, to 1, the lower right one.
        scoring: what the two score logits mean, see `lib.geometry.scores`.
        landmarks: how many points of each face the network also finds; their code is that of "plain" centres.
        whole_px: whether boxes suppress each other by their overlap in whole pixels, see `lib.geometry.suppression`.

    """

    strides: tuple[int, ...] = (4, 8, 16, 32, 64, 128)
    sizes: tuple[float, ...] = (16, 32, 64, 128, 256, 512)
    ratio: float = 1.25
    scales: tuple[float, ...] = (1.0,)
    code: Code = "centre"
    place: float = 0.5
    scoring: Scoring = "softmax"
    landmarks: int = 0
    whole_px: bool = False

    def __post_init__(self) -> None:
        for name in ("strides", "sizes", "scales"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.strides or len(self.strides) != len(self.sizes):
            raise ValueError(f"one anchor size a stride is needed, got strides {self.strides}, sizes {self.sizes}")
        numbers = (*self.strides, *self.sizes, *self.scales, self.ratio)
        if not self.scales or not all(
            isinstance(number, int | float | np.number) and 0 < number < 1e6 for number in numbers
        ):
            raise ValueError(f"strides, sizes, scales and ratio must be positive numbers below 1e6, got {self}")
        for name, value, known in (
            ("box code", self.code, get_args(Code)),
            ("scoring", self.scoring, get_args(Scoring)),
        ):
            if value not in known:
                raise ValueError(f"the {name} must be one of {', '.join(map(repr, known))}, got {value!r}")
        if not 0 <= self.place <= 1 or self.landmarks < 0:
            raise ValueError(f"place must lie in 0..1 and landmarks be at least 0, got {self}")

    @property
    def matched_in_training(self) -> bool:
        """Whether faces are matched with predictions while training, and not with anchors beforehand."""
        return self.code == "plain"

    def to_dict(self) -> dict[str, Any]:
        """A plain dict for JSON; `AnchorSpec(**d)` is its inverse."""
        return asdict(self)

    def grid_shapes(self, height_px: int, width_px: int) -> list[tuple[int, int]]:
        """(rows, columns) of each level's grid: level 0 is the input over its stride, rounded up, then ceil(half)."""
        rows, columns = -(-height_px // self.strides[0]), -(-width_px // self.strides[0])
        shapes = [(rows, columns)]
        for _ in self.strides[1:]:
            rows, columns = -(-rows // 2), -(-columns // 2)
            shapes.append((rows, columns))
        return shapes


@lru_cache(maxsize=32)
def anchor_grid(spec: AnchorSpec, height_px: int, width_px: int) -> FloatArray:
    """All anchors of an input of `height_px` x `width_px`: read-only float32 [n, 4] cxcywh, relative."""
    levels = []
    for (rows, columns), stride, size in zip(
        spec.grid_shapes(height_px, width_px), spec.strides, spec.sizes, strict=True
    ):
        level = np.empty((rows, columns, len(spec.scales), 4), np.float64)
        level[..., 0] = ((np.arange(columns) + spec.place) * stride / width_px)[:, None]
        level[..., 1] = ((np.arange(rows) + spec.place) * stride / height_px)[:, None, None]
        level[..., 2] = np.multiply(spec.scales, size / width_px)
        level[..., 3] = np.multiply(spec.scales, size * spec.ratio / height_px)
        levels.append(level.reshape(-1, 4))
    grid = np.concatenate(levels).astype(np.float32)
    grid.setflags(write=False)
    return grid


def encode(boxes_xyxy: FloatArray, anchors_cxcywh: FloatArray, code: Code = "centre") -> FloatArray:
    """Offsets [..., 4] that `decode` turns back into the boxes; boxes must have positive width and height."""
    if code == "corners":
        sizes = np.tile(anchors_cxcywh[..., 2:], 2)
        return ((boxes_xyxy - cxcywh_to_xyxy(anchors_cxcywh)) / sizes * CORNER_SCALE).astype(np.float32)
    variances = variances_of(code)
    boxes = xyxy_to_cxcywh(boxes_xyxy)
    centre = (boxes[..., :2] - anchors_cxcywh[..., :2]) / (variances[0] * anchors_cxcywh[..., 2:])
    size = np.log(boxes[..., 2:] / anchors_cxcywh[..., 2:]) / variances[1]
    return np.concatenate([centre, size], axis=-1).astype(np.float32)


def decode(offsets: FloatArray, anchors_cxcywh: FloatArray, code: Code = "centre") -> FloatArray:
    """Boxes [..., 4] xyxy (relative, not clipped) from the network's offsets [..., 4].

    Further columns, 2 for each landmark, become points x, y.
    """
    if offsets.shape[-1] > 4:
        points = decode_points(offsets[..., 4:], anchors_cxcywh)
        boxes = decode(offsets[..., :4], anchors_cxcywh, code)
        return np.concatenate([boxes, points.reshape(offsets[..., 4:].shape)], axis=-1)
    if code == "corners":
        sizes = np.tile(anchors_cxcywh[..., 2:], 2)
        boxes = cxcywh_to_xyxy(anchors_cxcywh) + offsets / CORNER_SCALE * sizes
        boxes[..., 2:] = np.maximum(boxes[..., 2:], boxes[..., :2])  # NMS operators differ on inverted boxes
        return boxes
    of_centre, of_size = variances_of(code)
    x, y, width, height = np.moveaxis(anchors_cxcywh, -1, 0)
    dx, dy, log_width, log_height = np.moveaxis(offsets, -1, 0)
    x, y = x + dx * of_centre * width, y + dy * of_centre * height
    width = width * np.exp(np.minimum(log_width * of_size, MAX_LOG_SIZE))
    height = height * np.exp(np.minimum(log_height * of_size, MAX_LOG_SIZE))
    return cxcywh_to_xyxy(np.stack([x, y, width, height], axis=-1))


def variances_of(code: Code) -> tuple[float, float]:
    """What offsets of the centre and log sizes are divided by in a code of centres."""
    return (1.0, 1.0) if code == "plain" else VARIANCES


def encode_points(points: FloatArray, anchors_cxcywh: FloatArray) -> FloatArray:
    """[..., k, 2] relative -> offsets [..., 2 k] from the anchors' centres, in anchor sizes."""
    offsets = (points - anchors_cxcywh[..., None, :2]) / anchors_cxcywh[..., None, 2:]
    return offsets.reshape(*offsets.shape[:-2], 2 * offsets.shape[-2]).astype(np.float32)


def decode_points(offsets: FloatArray, anchors_cxcywh: FloatArray) -> FloatArray:
    """The inverse: offsets [..., 2 k] -> [..., k, 2] relative."""
    offsets = offsets.reshape(*offsets.shape[:-1], offsets.shape[-1] // 2, 2)
    return anchors_cxcywh[..., None, :2] + offsets * anchors_cxcywh[..., None, 2:]
