"""Scores WIDER FACE prediction files: average precision for easy, medium and hard, and by face height."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from lib.console import friendly_errors, start_logging
from lib.files import require_output, write_json

BUILD = "cd tools/ap_eval && python setup.py build_ext --inplace"


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads, scores, prints and writes what was asked for; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pred", required=True, metavar="DIR", help="the result folder, or a .zip of it")
    truth_options = parser.add_mutually_exclusive_group(required=True)
    truth_options.add_argument("--gt", metavar="DIR", help="folder of the four official .mat files")
    truth_options.add_argument(
        "--annotation", metavar="FILE", help="annotations as text instead, for data of your own; all faces count"
    )
    parser.add_argument("--json", metavar="OUT", help="write the figures, not rounded, to this .json file")
    parser.add_argument("--picture", metavar="OUT.png", help="draw the precision-recall curves into this file")
    parser.add_argument(
        "--only_predicted", action="store_true", help="leave out images without a prediction file, with their faces"
    )
    options = parser.parse_args(arguments)
    start_logging()
    with friendly_errors():
        for path, *endings in ((options.json, ".json"), (options.picture, ".png", ".pdf", ".svg")):
            if path:
                require_output(path, *endings, others=[options.annotation, options.pred])
        from lib.evaluation.curve import draw_curves
        from lib.evaluation.ground_truth import read_annotated_truth, read_ground_truth
        from lib.evaluation.matching import COMPILED, FASTEST
        from lib.evaluation.prediction_files import read_predictions
        from lib.evaluation.wider import PROTOCOL, as_json, evaluate_wider, table

        truth = read_annotated_truth(options.annotation) if options.annotation else read_ground_truth(options.gt)
        predictions, present = read_predictions(options.pred, truth.names, options.only_predicted)
        left_out = int((~present).sum())
        evaluation = evaluate_wider(truth.select(present), predictions)
        print(table(evaluation))
        print(f"\n{evaluation.images:,} images with {evaluation.detections:,} detections in {options.pred}")
        if left_out:
            print(f"PART OF THE SET ONLY: {left_out:,} of {len(present):,} images have no prediction file, left out")
        print(f"protocol: {PROTOCOL}")
        print(f"matching: {FASTEST.name}" + ("" if COMPILED else f"; for the compiled one: {BUILD}"))
        if options.json:
            write_json(options.json, as_json(evaluation, left_out))
        if options.picture:
            draw_curves(evaluation.subsets, Path(options.pred).name, options.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
