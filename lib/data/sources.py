"""The images of a run: the annotations that a config names, or the built-in sample set."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib.config import Config
from lib.data.annotations import Record, read_annotations
from lib.data.scenes import ensure_samples
from lib.errors import DataError


@dataclass(frozen=True)
class FaceData:
    """The images of a run.

    Attributes:
        train, val: the annotated images.
        description: one line for the tables: which data the figures come from.

    """

    train: list[Record]
    val: list[Record]
    description: str


def load_data(config: Config) -> FaceData:
    """Reads the annotations that the config names, or makes the built-in sample set.

    Raises:
        DataError: annotations or images are unfit, or the validation images have no face to find.

    """
    data, train = config.DATA, config.TRAIN
    if data.train_txt_path:
        root = Path(data.root_path)
        sources = [
            (root / data.train_txt_path, root / data.train_image_dir),
            (root / data.val_txt_path, root / data.val_image_dir),
        ]
        description = f"{data.train_txt_path} and {data.val_txt_path}"
    else:
        samples = ensure_samples(data.sample_path, train.seed)
        sources = [(samples.train_annotations, samples.train_images), (samples.val_annotations, samples.val_images)]
        description = "built-in generated scenes (drawings, not photographs)"
    train_records, val_records = (
        subset(read_annotations(annotation, images), size, train.seed)
        for (annotation, images), size in zip(sources, (train.train_set_size, train.val_set_size), strict=True)
    )
    if not any(len(record.boxes_xyxy_px) for record in val_records):
        raise DataError(
            f"{sources[1][0]}: no face in the {len(val_records)} validation images; nothing can be measured"
        )
    counts = f"{len(train_records)} training and {len(val_records)} validation images"
    return FaceData(train_records, val_records, f"{description}, {counts}")


def subset(records: list[Record], size: int, seed: int) -> list[Record]:
    """`size` of the records, drawn by the seed, in their order; 0 means all."""
    if size == 0 or size >= len(records):
        return records
    return [records[i] for i in np.sort(np.random.default_rng(seed).permutation(len(records))[:size])]
