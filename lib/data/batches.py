"""Records -> batches of images and targets, for `model.fit`."""

import logging
import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass, replace

import keras
import numpy as np
from numpy.typing import NDArray

from lib.arrays import FloatArray, IntArray
from lib.data.annotations import Record
from lib.data.augment import Sample, keep_targets
from lib.data.fit import TOLERATED_SHARE, read_fitting, too_many
from lib.data.recipes import Recipe, RecipeName, training_sample, validation_sample
from lib.errors import DataError
from lib.geometry.anchors import AnchorSpec, anchor_grid, encode
from lib.geometry.assignment import assign
from lib.geometry.boxes import area
from lib.geometry.compensation import BACKGROUND, Compensation, match_compensated

logger = logging.getLogger(__name__)

SCALE_STEP_PX = 32  # between the sizes of multi-scale training
MAX_FACES = 64  # of an image, where the step matches them; of the smallest of more nothing is said
_SIZES = 1  # marks the random numbers that the sizes come from


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

    def of_image(
        self, boxes_xyxy_px: FloatArray, labelled: bool = True, landmarks_px: FloatArray | None = None
    ) -> dict[str, FloatArray]:
        """Targets of one image by the names of the model's outputs; where it has no labels, scores are all -1.

        Of anchors that are matched in the step (`lib.training.simota`): "boxes" [MAX_FACES, 5], the largest faces,
        relative, each with a 1, and zeros; "scores" [n], 0, and -1 for cells within the others; where the detector has
        k landmarks, "landmarks" [MAX_FACES, 2 k + 1]: x, y of those of the same faces, relative, and 1, or zeros.

        Args:
            boxes_xyxy_px: [m, 4] faces in the input's px.
            labelled: whether the faces are known.
            landmarks_px: [m, k, 2] in the input's px, NaN where not known; None: none are.

        """
        if not self.anchors.matched_in_training:
            boxes, scores = self.targets(boxes_xyxy_px)
            found = self.by_shot(boxes[None], (scores if labelled else np.full_like(scores, -1))[None])
            return {name: values[0] for name, values in found.items()}
        scale = np.array([self.width_px, self.height_px] * 2, np.float32)
        faces: FloatArray = np.divide(boxes_xyxy_px, scale, dtype=np.float32)
        order = np.argsort(-area(faces), kind="stable")
        faces = faces[order]
        boxes = np.zeros((MAX_FACES, 5), np.float32)
        kept, left = faces[:MAX_FACES], faces[MAX_FACES:]
        boxes[: len(kept)] = np.pad(kept, ((0, 0), (0, 1)), constant_values=1)
        cells = anchor_grid(self.anchors, self.height_px, self.width_px)
        x, y = (cells[:, :2] + cells[:, 2:] / 2).T  # centres, by which faces are matched
        unknown = np.full(len(x), not labelled)
        for x1, y1, x2, y2 in left:
            unknown |= (x >= x1) & (x <= x2) & (y >= y1) & (y <= y2)
        targets = {"boxes": boxes, "scores": np.where(unknown, np.float32(-1), np.float32(0))}
        if self.anchors.landmarks:
            points = np.zeros((MAX_FACES, 2 * self.anchors.landmarks + 1), np.float32)
            if landmarks_px is not None:
                relative = (landmarks_px / scale[:2])[order[:MAX_FACES]].reshape(len(kept), 2 * self.anchors.landmarks)
                known = np.flatnonzero(np.isfinite(relative).all(axis=1))
                points[known] = np.pad(relative[known], ((0, 0), (0, 1)), constant_values=1)
            targets["landmarks"] = points
        return targets

    def by_shot(self, boxes: FloatArray, scores: FloatArray) -> dict[str, FloatArray]:
        """Targets of a batch, [B, n, 5] and [B, n], by the names of the model's outputs: each shot has its own."""
        found = {}
        for place, shot in enumerate(self.shots):
            for name, targets in (("boxes", boxes), ("scores", scores)):
                found[f"{shot}{name}"] = np.ascontiguousarray(targets[:, place :: len(self.shots)])
        return found


class FaceDataset(keras.utils.PyDataset):
    """Batches of (images uint8 [B, H, W, 3], {"boxes": [B, n, 5], "scores": [B, n]}).

    With several shots, there are such targets for each; a detector whose faces are matched in the step has others
    (`TargetSpec.of_image`).

    A batch depends on (seed, epoch, index) alone, not on the number of workers. Images stay bytes until the model casts
    them: a quarter of the memory in the queue and of the copying.

    Args:
        records: the images; one that cannot be read, or whose boxes do not fit it, is counted and named once in the
            log, and its successor taken instead. One without labels has targets of neither kind: its scores are all -1.
        target_spec: input size and matching.
        batch_size: images a batch; while training the last, incomplete batch is left out.
        recipe: augmentation, at the size of `target_spec`; with it images come in random order. None: every image
            whole, in order.
        seed, epoch: fix shuffling and augmentation; set `epoch` before each epoch (`DatasetEpoch` does).
        workers: threads that prepare batches (decoding and scaling run outside Python's lock).
        prefetch: batches prepared ahead.
        sizes_px: multi-scale training: every batch is square, of one of these sizes; empty: all as `target_spec` says.
        cover_px: faces of a size (root of the area) below this in the input are painted over; 0: none.
        ignore_invalid: whether faces flagged invalid are painted over and no targets, or are faces like others.

    Attributes:
        rows: first row, and the one after the last, of every batch that are made; all, unless processes share batches.

    """

    def __init__(
        self,
        records: Sequence[Record],
        target_spec: TargetSpec,
        batch_size: int,
        recipe: Recipe | None = None,
        *,
        seed: int = 0,
        epoch: int = 0,
        workers: int = 1,
        prefetch: int = 8,
        sizes_px: Sequence[int] = (),
        cover_px: float = 0.0,
        ignore_invalid: bool = True,
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
        self.sizes_px = tuple(sizes_px)
        self.cover_px = cover_px
        self.ignore_invalid = ignore_invalid
        self.rows = (0, self.batch_size)
        # Shared with worker processes, if there are any.
        self._unreadable = multiprocessing.Array("b", len(self.records))

    def __len__(self) -> int:
        full, rest = divmod(len(self.records), self.batch_size)
        return full + (rest > 0 and self.recipe is None)

    def image_names(self, epoch: int, index: int) -> list[str]:
        """The paths of a batch's images, as annotated; an unreadable one is replaced in the batch, not here."""
        order, places = self._places(epoch, index)
        return [str(self.records[order[place]].image) for place in places]

    def _places(self, epoch: int, index: int) -> tuple[IntArray, range]:
        """The epoch's order of records, and the places in it that a batch takes."""
        order = np.arange(len(self.records))
        if self.recipe is not None:
            order = np.random.default_rng([self.seed, epoch]).permutation(order)
        return order, range(index * self.batch_size, min((index + 1) * self.batch_size, len(order)))

    @property
    def unreadable(self) -> int:
        """How many images could not be used so far."""
        return sum(self._unreadable[:])

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], dict[str, FloatArray]]:
        order, places = self._places(self.epoch, index)
        places = places[slice(*self.rows)]
        spec = self._spec(index)
        images = np.empty((len(places), spec.height_px, spec.width_px, 3), np.uint8)
        targets = []
        for i, place in enumerate(places):
            sample, labelled = self._sample(order, place, spec)
            images[i] = sample.image
            targets.append(spec.of_image(sample.boxes_xyxy_px, labelled, sample.landmarks_px))
        return images, {name: np.stack([one[name] for one in targets]) for name in targets[0]}

    def _spec(self, index: int) -> TargetSpec:
        """The targets of a batch, at its size: any of the sizes but the one of the batch before.

        For Keras takes what two neighbouring batches have in common for the same in all.
        """
        if not self.sizes_px:
            return self.target_spec
        count = len(self.sizes_px)
        epoch = self.epoch if len(self) > 1 else 0
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, epoch], spawn_key=(_SIZES,)))
        start, steps = rng.integers(count), rng.integers(1, max(2, count), index)
        size = self.sizes_px[(start + steps.sum()) % count]
        return replace(self.target_spec, height_px=size, width_px=size)

    def _sample(self, order: IntArray, place: int, spec: TargetSpec) -> tuple[Sample, bool]:
        """An image with its faces as the network sees it, and whether the faces are known."""
        record, image = self._first_readable(order, place)
        ignored = np.zeros(len(record.boxes_xyxy_px), np.bool_)
        if self.ignore_invalid and record.invalid is not None:
            ignored = record.invalid
        landmarks = None if record.landmarks_px is None else record.landmarks_px[~ignored]
        sample = Sample(image, record.boxes_xyxy_px[~ignored], record.boxes_xyxy_px[ignored], landmarks)
        if self.recipe is None:
            sample = validation_sample(sample, spec.height_px, spec.width_px)
        else:
            recipe = replace(self.recipe, height_px=spec.height_px, width_px=spec.width_px)
            sample = training_sample(sample, recipe, np.random.default_rng([self.seed, self.epoch, place]))
        return keep_targets(sample, self.cover_px), record.labelled

    def _first_readable(self, order: IntArray, place: int) -> tuple[Record, NDArray[np.uint8]]:
        for step in range(len(order)):
            index = int(order[(place + step) % len(order)])
            try:
                return self.records[index], read_fitting(self.records[index])
            except DataError as error:
                self._count_unreadable(index, error)
        raise DataError("none of the images can be used")

    def _count_unreadable(self, index: int, error: DataError) -> None:
        with self._unreadable.get_lock():
            if self._unreadable[index]:
                return
            self._unreadable[index] = 1
            count = self.unreadable
        logger.warning("left out: %s (annotated at %s)", error, self.records[index].origin)
        if too_many(count, len(self.records)):
            raise DataError(
                f"{count} of {len(self.records)} images cannot be used, over {TOLERATED_SHARE:.0%}; the last: {error}"
            )


@dataclass(frozen=True)
class BatchSettings:
    """How a detector's images become batches; `FaceDataset` and `TargetSpec` say more of most.

    Attributes:
        height_px, width_px: of the input.
        batch_size: images a batch.
        seed: of shuffling and augmentation.
        recipe, crop_min, anchor_sampling: the augmentation, see `Recipe`.
        sizes_px: of multi-scale training; empty: off.
        cover_px, ignore_invalid: which faces are painted over.
        positive_iou, second_stage_iou: of the matching.
        compensation: of DSFD's matching; None: EResFD's matching.
        workers, prefetch: threads that prepare batches, and batches prepared ahead.

    """

    height_px: int
    width_px: int
    batch_size: int = 16
    seed: int = 0
    recipe: RecipeName = "eresfd"
    crop_min: float = 0.3
    anchor_sampling: float = 0.5
    sizes_px: tuple[int, ...] = ()
    cover_px: float = 0.0
    ignore_invalid: bool = True
    positive_iou: float = 0.35
    second_stage_iou: float = 0.1
    compensation: Compensation | None = None
    workers: int = 1
    prefetch: int = 8


def face_dataset(
    settings: BatchSettings,
    records: Sequence[Record],
    anchors: AnchorSpec,
    *,
    augment: bool,
    epoch: int = 0,
    shots: tuple[str, ...] = ("",),
) -> FaceDataset:
    """The batches of a detector with these anchors: augmented ones for training, whole images in order otherwise."""
    size = (settings.height_px, settings.width_px)
    spec = TargetSpec(
        anchors,
        *size,
        positive_iou=settings.positive_iou,
        second_stage_iou=settings.second_stage_iou,
        compensation=settings.compensation,
        shots=shots,
    )
    recipe = Recipe(*size, settings.crop_min, settings.anchor_sampling, anchors.sizes, settings.recipe)
    return FaceDataset(
        records,
        spec,
        settings.batch_size,
        recipe if augment else None,
        seed=settings.seed,
        epoch=epoch,
        workers=settings.workers,
        prefetch=settings.prefetch,
        sizes_px=settings.sizes_px if augment else (),
        cover_px=settings.cover_px,
        ignore_invalid=settings.ignore_invalid,
    )
