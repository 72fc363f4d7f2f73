from typing import Any

from numpy.typing import NDArray

def nms(boxes: NDArray[Any], areas: NDArray[Any], iou_threshold: float, kept: NDArray[Any]) -> int: ...
