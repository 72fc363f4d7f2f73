from lib.arrays import FloatArray, IntArray

def nms_in_strips(
    boxes: FloatArray,
    areas: FloatArray,
    iou_threshold: float,
    kept: IntArray,
    strips: IntArray,
    low: FloatArray,
    factor: FloatArray,
) -> int: ...
