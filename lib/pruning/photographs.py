"""What a user gives to measure on becomes batches that a model reads."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from lib.arrays import BoolArray, FloatArray
from lib.errors import DataError

ENLARGED = 1.5  # face boxes, about their centres


@dataclass(frozen=True)
class Group:
    """Images that go through the models together.

    Attributes:
        size_px: their height and width; None: not images.
        boxes: of each photograph [n, 4] xyxy in px, or None; a batch that came as one counts as one photograph.

    """

    size_px: tuple[int, int] | None
    boxes: tuple[FloatArray | None, ...]

    def faces_at(self, grid: tuple[int, ...]) -> BoolArray | None:
        """By position of a grid [B, h, w], whether it lies in an enlarged face box; None where that is not known."""
        if self.size_px is None or len(grid) != 3 or grid[0] != len(self.boxes) or any(x is None for x in self.boxes):
            return None
        found = np.zeros(grid, bool)
        scale = np.array([grid[2] / self.size_px[1], grid[1] / self.size_px[0]] * 2)
        for index, boxes in enumerate(self.boxes):
            assert boxes is not None
            centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * ENLARGED
            corners = np.concatenate([centre - half, centre + half], axis=1) * scale
            for x1, y1, x2, y2 in np.maximum(corners, 0).astype(int):
                found[index, y1 : y2 + 1, x1 : x2 + 1] = True
        return found.reshape(-1)


def is_photograph(image: Any) -> bool:
    """Whether this is one image, uint8, and not a batch that is ready for the model."""
    return isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim < 4


def as_batch(image: Any, model: keras.Model, dtype: Any = np.float32) -> Any:
    """[B, ...] for each of the model's inputs; a single image becomes a batch of one, a grey one gets 3 channels."""
    parts = [np.asarray(part, dtype) for part in keras.tree.flatten(image)]
    inputs = keras.tree.flatten(model.inputs)
    if len(parts) != len(inputs):
        raise DataError(f"an image of {len(parts)} arrays for a model of {len(inputs)} inputs; give one for each")
    for index, (part, tensor) in enumerate(zip(parts, inputs, strict=True)):
        rank = len(tensor.shape)
        if rank == 4 and part.ndim == 2:
            part = part[..., None]
        if part.ndim == rank - 1:
            part = part[None]
        if rank == 4 and tensor.shape[-1] == 3 and part.shape[-1] == 1:
            part = np.repeat(part, 3, axis=-1)
        fits = part.ndim == rank and all(a in (None, b) for a, b in zip(tensor.shape[1:], part.shape[1:], strict=True))
        if not fits:
            raise DataError(
                f"an image of shape {np.shape(part)} for a model that reads {tuple(tensor.shape)}; resize it to that"
            )
        parts[index] = part
    return parts if len(parts) > 1 else parts[0]


def window(
    batch: NDArray[Any], boxes: FloatArray | None, window_px: tuple[int, int], random: np.random.Generator
) -> tuple[NDArray[Any], FloatArray | None]:
    """A window of at most this size, anywhere, and the boxes in its own pixels."""
    height, width = (min(size, limit) for size, limit in zip(batch.shape[1:3], window_px, strict=True))
    y, x = (int(random.integers(size - cut + 1)) for size, cut in zip(batch.shape[1:3], (height, width), strict=True))
    moved = None if boxes is None else boxes - np.array([x, y, x, y])
    if moved is not None:
        seen = (moved[:, 2:] > 0).all(axis=1) & (moved[:, :2] < [width, height]).all(axis=1)
        moved = moved[seen]
    return batch[:, y : y + height, x : x + width], moved
