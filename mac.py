"""Counts what a model costs: parameters, multiply-accumulates, active channels, as mac_config.py says."""

import argparse
import sys
from collections.abc import Sequence

from lib.config import MacConfig, load_config
from lib.console import friendly_errors, start_logging
from lib.files import require_output, write_json


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table of layers and the sums; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="mac_config.py", help="config file")
    parser.add_argument("--images", help="count active channels on the images of this folder too")
    parser.add_argument("--json", help="write the figures to this .json file")
    parser.add_argument("overrides", nargs="*", metavar="SECTION.key=value", help="e.g. MODEL.trained_model=FILE")
    options = parser.parse_args(arguments)
    start_logging()
    with friendly_errors():
        config = load_config(options.config, options.overrides, MacConfig)
        if options.images:
            config.DATA.image_dir = options.images
        if options.json:
            require_output(options.json, ".json", others=[options.config])
        from lib.data.images import image_files
        from lib.evaluation.cost_report import cost_report  # importing Keras takes seconds
        from lib.limits import allowing
        from lib.models import load
        from lib.runs.folder import model_file
        from lib.tables import cost_table

        model_path, data, size = model_file(config.MODEL.trained_model), config.DATA, config.COST
        images = image_files(data.image_dir)[: data.max_images or None] if data.image_dir else []
        with allowing(**dict(config.LIMITS)):
            full = load(model_file(config.MODEL.full_model)) if config.MODEL.full_model else None
            report = {"model": str(model_path), **cost_report(load(model_path), size.hin, size.win, full, images)}
        print(cost_table(report))
        if options.json:
            write_json(options.json, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
