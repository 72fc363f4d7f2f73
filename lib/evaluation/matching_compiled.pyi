from typing import Any

from numpy.typing import NDArray

def match(
    boxes: NDArray[Any],
    box_starts: NDArray[Any],
    faces: NDArray[Any],
    face_starts: NDArray[Any],
    min_iou: float,
    taken: NDArray[Any],
    face: NDArray[Any],
    is_first: NDArray[Any],
) -> None: ...
def count(
    levels: NDArray[Any],
    face: NDArray[Any],
    is_first: NDArray[Any],
    counted: NDArray[Any],
    made: NDArray[Any],
    found: NDArray[Any],
) -> None: ...
