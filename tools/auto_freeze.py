"""Freezes a trained detector: one TensorFlow graph, detector.pb, with images in and face boxes out."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lib.console import friendly_errors, start_logging, whole_number
from lib.files import require_output, require_output_folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes DIR/detector.pb and prints what it holds; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ckpt_path", required=True, help="a .keras file, or a run folder (then its last model)")
    parser.add_argument("--output_path", required=True, help="the folder for detector.pb")
    parser.add_argument("--score_threshold", type=float, default=0.05, help="lower scores are no detections (0.05)")
    parser.add_argument("--iou_threshold", type=float, default=0.3, help="NMS: greater overlaps go (0.3)")
    parser.add_argument("--max_candidates", type=whole_number(1), default=5000, help="best boxes that enter NMS (5000)")
    parser.add_argument("--max_detections", type=whole_number(1), default=750, help="most boxes an image (750)")
    options = parser.parse_args(arguments)
    start_logging()
    output = Path(options.output_path) / "detector.pb"
    with friendly_errors():
        require_output_folder(options.output_path)
        require_output(output)
        from lib.detection.formats.pb import DetectionSettings, ends_of, freeze  # TensorFlow takes seconds
        from lib.models import anchors_of, load
        from lib.runs.folder import model_file

        settings = DetectionSettings(
            options.score_threshold, options.iou_threshold, options.max_candidates, options.max_detections
        )
        checkpoint = model_file(options.ckpt_path)
        model = load(checkpoint)
        size_bytes, nodes = freeze(model, output, settings)
        print(f"{checkpoint} -> {output}: {size_bytes:,} bytes, {nodes:,} nodes")
        print("in   image: float32 [B, H, W, 3], RGB 0..255, any B, H and W")
        print(f"out  {', '.join(ends_of(anchors_of(model))[0])}; boxes are y1, x1, y2, x2, relative to the image")
    return 0


if __name__ == "__main__":
    sys.exit(main())
