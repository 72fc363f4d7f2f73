"""Writes the page that shows a run, or several side by side: one file, to be opened in any browser.

A run that is not finished has one too: it says what is missing.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lib.console import friendly_errors, start_logging
from lib.files import require_output


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the page and says where; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run folder of pruned_train.py")
    parser.add_argument("--output", type=Path, help="the .html file (report.html in the first folder)")
    options = parser.parse_args(arguments)
    start_logging()
    with friendly_errors():
        if options.output is not None:
            require_output(options.output, ".html")
        from lib.runs.report.making import report_folders  # importing Keras takes seconds

        print(report_folders(options.runs, options.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
