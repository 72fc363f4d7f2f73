"""The images of a run: the annotations that are named, or the built-in sample set."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib.data.annotations import Record, read_annotations
from lib.data.images import image_files, read_rgb
from lib.data.scenes import ensure_samples
from lib.errors import DataError


@dataclass(frozen=True)
class FaceData:
    """The images of a run.

    Attributes:
        train, val: the images; those for validation are annotated.
        description: one line for the tables: which data the figures come from.

    """

    train: list[Record]
    val: list[Record]
    description: str

    @property
    def digest(self) -> str:
        """Of the images' names, in their order, and of all faces known: the same wherever the files lie."""
        made = hashlib.sha256()
        for part, records in (("train", self.train), ("val", self.val)):
            for record in records:
                invalid = b"" if record.invalid is None else record.invalid.tobytes()
                known = part if record.labelled else f"{part} without labels"
                landmarks = b"" if record.landmarks_px is None else record.landmarks_px.tobytes()
                faces = record.boxes_xyxy_px.tobytes() + invalid + landmarks
                made.update(f"\n{known} {record.name}\n".encode() + faces)
        return made.hexdigest()


@dataclass(frozen=True)
class DataSettings:
    """Where images and boxes come from.

    Attributes:
        root: folder that the other paths are relative to.
        train_annotations, val_annotations: text files; both empty: the built-in sample set. Only the first empty: all
            photographs in `train_images` are for training, without labels.
        train_images, val_images: folders that the annotations' paths are relative to.
        samples: where the built-in sample set is made.
        seed: of the sample set, and of the subsets.
        train_size, val_size: so many images, drawn by the seed; 0: all.

    """

    root: str | Path = ""
    train_annotations: str | Path = ""
    train_images: str | Path = ""
    val_annotations: str | Path = ""
    val_images: str | Path = ""
    samples: str | Path = "data/samples"
    seed: int = 0
    train_size: int = 0
    val_size: int = 0


def load_data(settings: DataSettings) -> FaceData:
    """Reads the annotations that the settings name, or makes the built-in sample set.

    Raises:
        DataError: annotations or images are unfit, or the validation images have no face to find.

    """
    root = Path(settings.root)
    if settings.val_annotations:
        annotations = root / settings.val_annotations
        val = read_annotations(annotations, root / settings.val_images)
        if settings.train_annotations:
            train = read_annotations(root / settings.train_annotations, root / settings.train_images)
        else:
            train = unlabelled(root / settings.train_images)
        kind = settings.train_annotations or f"{settings.train_images} without labels"
        description = f"{kind} and {settings.val_annotations}"
    else:
        samples = ensure_samples(settings.samples, settings.seed)
        annotations = samples.val_annotations
        val = read_annotations(annotations, samples.val_images)
        train = read_annotations(samples.train_annotations, samples.train_images)
        description = "built-in generated scenes (drawings, not photographs)"
    train_records = subset(train, settings.train_size, settings.seed)
    val_records = subset(val, settings.val_size, settings.seed)
    if not any(len(record.boxes_xyxy_px) for record in val_records):
        raise DataError(f"{annotations}: no face in the {len(val_records)} validation images; nothing can be measured")
    counts = f"{len(train_records)} training and {len(val_records)} validation images"
    return FaceData(train_records, val_records, f"{description}, {counts}")


def unlabelled(folder: str | Path) -> list[Record]:
    """All images in a folder and the folders in it, sorted, as records without labels.

    Raises:
        DataError: there is no such folder, or no image in it.

    """
    nothing = np.zeros((0, 4), np.float32)
    return [
        Record(file.relative_to(folder).as_posix(), file, nothing, str(file), labelled=False)
        for file in image_files(folder)
    ]


def subset(records: list[Record], size: int, seed: int) -> list[Record]:
    """`size` of the records, drawn by the seed, in their order; 0 means all."""
    if size == 0 or size >= len(records):
        return records
    return [records[i] for i in np.sort(np.random.default_rng(seed).permutation(len(records))[:size])]


def draw_readable(records: Sequence[Record], count: int, seed: int) -> tuple[list[Record], list[str]]:
    """`count` records, drawn by the seed, whose images can be read; fewer where there are no more.

    Returns:
        The records in the order drawn, and what the images that were left out suffer from.

    Raises:
        DataError: no image can be read.

    """
    drawn: list[Record] = []
    unreadable: list[str] = []
    for index in np.random.default_rng(seed).permutation(len(records)):
        if len(drawn) == count:
            break
        try:
            read_rgb(records[index].image)
        except DataError as error:
            unreadable.append(str(error))
        else:
            drawn.append(records[index])
    if not drawn:
        first = f", the first: {unreadable[0]}" if unreadable else ""
        raise DataError(f"none of {len(records)} photographs can be read{first}; give some like those of training")
    return drawn, unreadable
