"""Records -> batches of images and targets, for `model.fit`."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np

from lib.anchors import AnchorSpec, anchor_grid, encode
from lib.assignment import assign
from lib.boxes import FloatArray
from lib.compensation import BACKGROUND, Compensation, match_compensated
from lib.data.augment import Sample
from lib.data.images import read_rgb
from lib.data.recipes import Recipe, training_sample, validation_sample
from lib.data.wider import Record
from lib.errors import DataError

logger = logging.getLogger(__name__)

UNREADABLE_SHARE = 0.01  # more unreadable images than this share (and more than one) stop the run


@dataclass(frozen=True)
class TargetSpec:
    """How faces become targets.

    Attributes:
        anchors: of all shots.
        height_px, width_px: of the input.
        positive_iou, second_stage_iou: of EResFD's matching stages.
        compensation: if given, DSFD's matching is used, and `second_stage_iou` is not.
        shots: what the names of each shot's targets begin with; of several, each has one anchor of every cell.

    """

    anchors: AnchorSpec
    height_px: int
    width_px: int
    positive_iou: float = 0.35
    second_stage_iou: float = 0.1
    compensation: Compensation | None = None
    shots: tuple[str, ...] = ("",)

    def targets(self, boxes_xyxy_px: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Targets of one image.

        Args:
            boxes_xyxy_px: [m, 4] faces in the input's px.

        Returns:
            boxes [n, 5]: encoded offsets and 1 for anchors with a face, 0 elsewhere; scores [n]: 1 face, 0 background,
            -1 neither.

        """
        grid = anchor_grid(self.anchors, self.height_px, self.width_px)
        scale = np.array([self.width_px, self.height_px] * 2, np.float32)
        faces = np.divide(boxes_xyxy_px, scale, dtype=np.float32)
        size = (self.height_px, self.width_px)
        if self.compensation is None:
            matched = assign(faces, self.anchors, *size, self.positive_iou, self.second_stage_iou)
        else:
            matched = match_compensated(faces, self.anchors, *size, self.positive_iou, self.compensation)
        positive = np.flatnonzero(matched >= 0)
        boxes = np.zeros((len(grid), 5), np.float32)
        boxes[positive, :4] = encode(faces[matched[positive]], grid[positive], self.anchors.code)
        boxes[positive, 4] = 1
        return boxes, np.where(matched < BACKGROUND, np.float32(-1), boxes[:, 4])

    def by_shot(self, boxes: FloatArray, scores: FloatArray) -> dict[str, FloatArray]:
        """Targets of a batch, [B, n, 5] and [B, n], by the names of the model's outputs: each shot has its own."""
        found = {}
        for place, shot in enumerate(self.shots):
            for name, targets in (("boxes", boxes), ("scores", scores)):
                found[f"{shot}{name}"] = np.ascontiguousarray(targets[:, place :: len(self.shots)])
        return found


class FaceDataset(keras.utils.PyDataset):
    """Batches of (images float32 [B, H, W, 3] in 0..255, {"boxes": [B, n, 5], "scores": [B, n]}).

    With several shots, there are such targets for each.

    A batch depends on (seed, epoch, index) alone, not on the number of workers.

    Args:
        records: the images; an unreadable one is counted, named once in the log, and its successor taken instead.
        target_spec: input size and matching.
        batch_size: images a batch; while training the last, incomplete batch is left out.
        recipe: augmentation, at the size of `target_spec`; with it images come in random order. None: every image
            whole, in order.
        seed, epoch: fix shuffling and augmentation; set `epoch` before each epoch (`lib.callbacks.DatasetEpoch` does).
        workers: threads that prepare batches (decoding and resizing run outside Python's lock).
        prefetch: batches prepared ahead.

    """

    def __init__(
        self,
        records: Sequence[Record],
        target_spec: TargetSpec,
        batch_size: int,
        recipe: Recipe | None = None,
        seed: int = 0,
        epoch: int = 0,
        workers: int = 1,
        prefetch: int = 8,
    ) -> None:
        super().__init__(workers=workers, use_multiprocessing=False, max_queue_size=prefetch)
        if not records:
            raise DataError("no images to make batches of; check the annotation file and the set sizes")
        self.records = list(records)
        self.target_spec = target_spec
        self.batch_size = min(batch_size, len(self.records))
        self.recipe = recipe
        self.seed = seed
        self.epoch = epoch
        self.unreadable: set[str] = set()

    def __len__(self) -> int:
        full, rest = divmod(len(self.records), self.batch_size)
        return full + (rest > 0 and self.recipe is None)

    def __getitem__(self, index: int) -> tuple[FloatArray, dict[str, FloatArray]]:
        order = np.arange(len(self.records))
        if self.recipe is not None:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(order)
        places = range(index * self.batch_size, min((index + 1) * self.batch_size, len(order)))
        samples = [self._sample(order, place) for place in places]
        targets = [self.target_spec.targets(sample.boxes_xyxy_px) for sample in samples]
        images = np.stack([sample.image for sample in samples]).astype(np.float32)
        boxes, scores = (np.stack(part) for part in zip(*targets, strict=True))
        return images, self.target_spec.by_shot(boxes, scores)

    def _sample(self, order: np.ndarray, place: int) -> Sample:
        record, image = self._first_readable(order, place)
        sample = Sample(image, record.boxes_xyxy_px)
        if self.recipe is None:
            return validation_sample(sample, self.target_spec.height_px, self.target_spec.width_px)
        rng = np.random.default_rng([self.seed, self.epoch, place])
        return training_sample(sample, self.recipe, rng)

    def _first_readable(self, order: np.ndarray, place: int) -> tuple[Record, np.ndarray]:
        for step in range(len(order)):
            record = self.records[order[(place + step) % len(order)]]
            try:
                return record, read_rgb(record.image)
            except DataError as error:
                self._count_unreadable(record, error)
        raise DataError("none of the images can be read")

    def _count_unreadable(self, record: Record, error: DataError) -> None:
        if record.name in self.unreadable:
            return
        self.unreadable.add(record.name)
        logger.warning("left out: %s (annotated at %s)", error, record.origin)
        if len(self.unreadable) > max(1, UNREADABLE_SHARE * len(self.records)):
            raise DataError(
                f"{len(self.unreadable)} of {len(self.records)} images cannot be read, over {UNREADABLE_SHARE:.0%}; "
                f"the last: {error}"
            )
