"""Averages the weights of models that came of one, such as before and after the last epochs, into one such model."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lib.console import friendly_errors, start_logging
from lib.files import require_output


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the mean and says what of; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--models", required=True, nargs="+", help=".keras files, or run folders (then their last models)"
    )
    parser.add_argument("--shares", nargs="+", type=float, help="of each in the mean, of any sum (all the same)")
    parser.add_argument("--output", required=True, help="the .keras file for the mean")
    options = parser.parse_args(arguments)
    start_logging()
    with friendly_errors():
        require_output(options.output, ".keras", others=options.models)
        from lib.models import load, save  # TensorFlow takes seconds
        from lib.models.average import average
        from lib.runs.folder import model_file

        files = [model_file(path) for path in options.models]
        require_output(options.output, others=files)  # of run folders they are known only now
        shares = options.shares or [1.0] * len(files)
        mean = average([load(file) for file in files], shares)
        save(mean, options.output)
        for file, share in zip(files, shares, strict=True):
            print(f"{share / sum(shares):.3f} of {file}")
        print(f"{options.output}: {Path(options.output).stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
