"""Trains, prunes, fine-tunes and measures a face detector, as pruned_train_config.py says."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lib.config import load_config
from lib.console import friendly_errors, progress_bar, start_logging
from lib.tables import rates_table, stage_table


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs or resumes the stages that the config names, then prints the closing table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="pruned_train_config.py", help="config file (.py, or a run's config.json)")
    parser.add_argument("--fresh", action="store_true", help="start anew; an earlier run in the folder is kept aside")
    parser.add_argument("overrides", nargs="*", metavar="SECTION.key=value", help="e.g. TRAIN.batch_size=4")
    options = parser.parse_args(arguments)
    start_logging()
    with friendly_errors("interrupted; the same command goes on from the last checkpoint"):
        config = load_config(options.config, options.overrides)
        from lib.runs.job import run  # importing Keras takes seconds: after the config is known to be sound

        results = run(config, options.fresh, progress=progress_bar)
        if not results["stages"]:
            print("this process has done its part; the chief of the search, or the first process, goes on")
            return 0
        if "search" in results:
            print(f"\nshare of the channels that goes, by the search:\n\n{rates_table(results['search'])}")
        print(f"\n{stage_table(results)}\n\nrun folder: {config.MODEL.model_path}")
        for name, what in (("report.html", "its page"), ("faces.jpg", "faces before and after")):
            if (file := Path(config.MODEL.model_path) / name).is_file():
                print(f"{what}: {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
