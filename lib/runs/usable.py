"""The images that models of a run can be compared on."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lib.arrays import FloatArray
from lib.data.annotations import Record
from lib.data.fit import read_fitting
from lib.detection.detector import MIN_SIDE_PX
from lib.errors import DataError


def first_usable(records: Sequence[Record], most: int) -> tuple[list[NDArray[np.uint8]], list[FloatArray]]:
    """The first images, at most so many, that are measured too: readable, large enough and fitting their boxes.

    Returns:
        Images [H, W, 3] and their faces [n, 4] in px, as many; [] where no image can be used.

    """
    images, faces = list[NDArray[np.uint8]](), list[FloatArray]()
    for record in records:
        if len(images) == most:
            break
        try:
            image = read_fitting(record)
        except DataError:
            continue  # said where AP is measured
        if min(image.shape[:2]) >= MIN_SIDE_PX:
            images.append(image)
            faces.append(record.boxes_xyxy_px)
    return images, faces
