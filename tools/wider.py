"""Runs a detector over WIDER FACE, or images laid out like it, and writes one text file an image for the evaluation."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lib.console import friendly_errors, progress_bar, start_logging
from lib.errors import ConfigError
from lib.evaluation.shards import Shard

PROTOCOL_NAMES = ("single", "multiscale", "pruned_dsfd")


def main(arguments: Sequence[str] | None = None) -> int:
    """Predicts what is missing in the result folder; exit status 1 if an image could not be used."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="a detector: .keras, .pb, .tflite, .onnx or a SavedModel folder")
    parser.add_argument("--data_dir", required=True, help="folder with images/<event>/<image>.jpg, e.g. WIDER_val")
    parser.add_argument("--result", required=True, help="folder for <event>/<image>.txt; files of the same run stay")
    parser.add_argument(
        "--protocol",
        choices=PROTOCOL_NAMES,
        default="multiscale",
        help="multiscale: the test of EResFD's and B-FPGM's published numbers (default); pruned_dsfd: Pruned DSFD's; "
        "single: one size, about four times as fast",
    )
    parser.add_argument("--annotation", help="annotation text; only the images that it names")
    parser.add_argument("--workers", type=int, default=1, help="processes, each with a model of its own (default 1)")
    parser.add_argument(
        "--shard",
        default="1/1",
        metavar="NUMBER/COUNT",
        help="only these of the images, e.g. 2/8 for the second of eight shards; any number of processes and machines "
        "may fill one --result, each with a shard of its own",
    )
    options = parser.parse_args(arguments)
    start_logging()
    with friendly_errors():
        shard = Shard.parse(options.shard)
        if options.workers < 1:
            raise ConfigError(f"--workers {options.workers}: expected at least 1")
        from lib.evaluation.prediction_folder import (  # importing Keras takes seconds: after the options are sound
            find_images,
            predict,
        )

        images = find_images(options.data_dir, options.annotation)
        bar = progress_bar(options.protocol)
        written, failures = predict(
            options.model, images, options.result, options.protocol, options.workers, bar, shard=shard
        )
        images = shard.of(images)
        kept = len(images) - written - len(failures)
        part = f", shard {shard}" if shard.count > 1 else ""
        print(f"{options.result}: {written} files written, {kept} kept, protocol {options.protocol}{part}")
        for name, reason in failures.items():
            print(f"no prediction for {name}: {reason}", file=sys.stderr)
        if failures:
            print(f"{len(failures)} of {len(images)} images could not be used and have no file", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
