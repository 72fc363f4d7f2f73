"""Draws detected faces, their scores and landmarks into images, a video or a camera's pictures, and writes files."""

import argparse
import sys
from collections.abc import Sequence

from lib.console import friendly_errors, start_logging, whole_number
from lib.files import require_output_folder

MODEL_HELP = (
    "a detector in any format, a run folder, or the name of published weights: eresfd (the default), yunet_n, yunet_s, "
    "bfpgm-original, bfpgm-10 to bfpgm-60; these are fetched once"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draws and reports; returns 1 if some images of a folder could not be used, else 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="eresfd", help=MODEL_HELP)
    parser.add_argument("--input", required=True, help="an image, a folder of images, a video file or a camera's index")
    parser.add_argument(
        "--output",
        default="runs/vis",
        help="folder for the pictures, which replace files of their names there (runs/vis)",
    )
    parser.add_argument("--score_threshold", type=float, default=0.5, help="draw boxes with at least this score (0.5)")
    parser.add_argument(
        "--max_side", type=whole_number(16), help="detect at most at this side length, px; default: full size"
    )
    parser.add_argument("--show", action="store_true", help="show the pictures in a window too; q stops")
    options = parser.parse_args(arguments)
    if not 0 <= options.score_threshold <= 1:
        parser.error(f"--score_threshold must lie in 0..1, got {options.score_threshold}")
    start_logging()
    with friendly_errors():
        require_output_folder(options.output)
        from lib.detection import FaceDetector  # importing Keras takes seconds
        from lib.detection.drawing import draw_source, window
        from lib.runs.folder import model_file

        show = window("faces") if options.show else None
        detector = FaceDetector(model_file(options.model))
        unusable = draw_source(
            options.input,
            options.output,
            lambda image: detector.faces(image, options.score_threshold, options.max_side),
            lambda what, faces: print(f"{what}: {faces} face{'' if faces == 1 else 's'}"),
            show,
        )
        if unusable:
            print(f"{unusable} image{'' if unusable == 1 else 's'} could not be used, see above")
    return 1 if unusable else 0


if __name__ == "__main__":
    sys.exit(main())
