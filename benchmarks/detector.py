"""From image to boxes: how long the network takes, and what lies behind it, in each format.

python benchmarks/detector.py MODEL.keras [--image people.jpg] [--opencv yunet.keras]
    [--height 480 --width 640] [--score 0.02] [--rounds 60]

All formats run in turns, on one thread. "behind" is what an image takes beside its network: conversion of the pixels,
candidates, NMS. With --opencv a YuNet runs among them in `cv2.FaceDetectorYN`, and in `cv2.dnn` as its network alone.
Compare ratios, not milliseconds of different runs.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# Read when TensorFlow starts.
os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exports, measures, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a .keras detector")
    parser.add_argument("--image", help="a photograph; default: noise")
    parser.add_argument("--opencv", help="a .keras YuNet, for cv2.FaceDetectorYN")
    parser.add_argument("--height", type=int, default=480, help="px")
    parser.add_argument("--width", type=int, default=640, help="px")
    parser.add_argument("--score", type=float, default=0.02, help="threshold")
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args(arguments)

    import numpy as np

    from lib.data.images import read_rgb
    from lib.detection import FaceDetector
    from lib.detection.detector import fit
    from lib.detection.export import export
    from lib.evaluation.latency import interleaved
    from lib.geometry import suppression
    from lib.models import load
    from lib.tables import markdown_table

    size = (options.height, options.width)
    if options.image:
        image, _ = fit(read_rgb(options.image), size)
    else:
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    pixels = image[None].astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        written = export(load(options.model), folder, ("keras", "litert", "onnx"), size_px=size)
        parts: dict[str, Callable[[], Any]] = {}
        for one in written:
            detector = FaceDetector(one.path, threads=None if one.format == "keras" else 1)
            network: Any = detector.network
            boxes, scores = detector.candidates(image, options.score)
            boxes = boxes * np.tile(np.array(size[::-1], np.float32), 2)
            alone = partial(network.model.predict_on_batch if one.format == "keras" else network, pixels)
            parts[f"{one.format} network"] = alone
            parts[f"{one.format} candidates"] = partial(detector.candidates, image, options.score)
            parts[f"{one.format} whole"] = partial(detector, image, options.score)
            parts[f"{one.format} nms"] = partial(suppression.nms, boxes, scores, detector.iou_threshold, 750)
        if options.opencv:
            parts |= _in_opencv(options.opencv, Path(folder) / "yunet.onnx", image, options.score)
        times = {name: latency.best_ms for name, latency in interleaved(parts, options.rounds).items()}
    rows = []
    for one in written:
        network_ms, candidates, whole, nms = (
            times[f"{one.format} {part}"] for part in ("network", "candidates", "whole", "nms")
        )
        ms = (network_ms, candidates - network_ms, nms, whole)
        rows.append([one.format, *(f"{value:.2f}" for value in ms), f"{whole / network_ms:.2f}"])
    if options.opencv:
        network_ms, whole = times["opencv network"], times["opencv whole"]
        rows.append(["FaceDetectorYN", f"{network_ms:.2f}", "", "", f"{whole:.2f}", f"{whole / network_ms:.2f}"])
    print(markdown_table(["format", "network", "pixels and candidates", "NMS", "in all", "of the network"], rows))
    built = "compiled" if suppression.COMPILED else "NumPy"
    print(
        f"\nms at {options.height}x{options.width}, one thread, the shortest of {options.rounds} in turns; "
        f"{len(scores)} candidates of score {options.score} or more; NMS {built}"
    )
    return 0


def _in_opencv(model: str, file: Path, image: Any, score: float) -> dict[str, Callable[[], Any]]:
    """A YuNet as OpenCV runs it: the whole, and its network alone."""
    import cv2

    from lib.detection.formats.opencv import OpenCVDetector, write_opencv
    from lib.models import load

    cv2.setNumThreads(1)
    write_opencv(load(model), file)
    network = cv2.dnn.readNetFromONNX(str(file))
    names = network.getUnconnectedOutLayersNames()
    pixels = cv2.dnn.blobFromImage(image[..., ::-1])

    def alone() -> Any:
        network.setInput(pixels)
        return network.forward(names)

    return {"opencv network": alone, "opencv whole": partial(OpenCVDetector(file), image, score)}


if __name__ == "__main__":
    sys.exit(main())
