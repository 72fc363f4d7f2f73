"""What a search finds: its best plan against uniform rates and against random plans, all on the same budget.

Every plan starts from the same weights and is trained on the same batches. The run folder's `search.csv` holds the
search, `random/search.csv` as many random plans.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lib.config import load_config
from lib.console import friendly_errors, start_logging
from lib.tables import markdown_table


def main(arguments: Sequence[str] | None = None) -> int:
    """Searches, tries random plans and prints a table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--config", default="configs/wider_search.py")
    parser.add_argument("overrides", nargs="*", metavar="SECTION.key=value")
    options = parser.parse_args(arguments)
    start_logging()
    with friendly_errors("interrupted; the same command goes on after the last finished trial"):
        config = load_config(options.config, options.overrides)
        from lib.data.sources import load_data
        from lib.models import load
        from lib.runs.wiring import data_settings, make_trainer, search_settings
        from lib.search.run import Search
        from lib.search.trial_table import best_of

        records = load_data(data_settings(config)).train
        trainer = make_trainer(load(config.MODEL.pretrained_model), config)
        folder, (target,) = Path(config.MODEL.model_path), config.SEARCH.targets()
        search = Search(search_settings(config), trainer, records, folder)
        found = search.run()[target]
        searched = search.oracle.finished()

        config.SEARCH.n_init_points, config.SEARCH.n_opt_iterations = len(searched), 0
        other = Search(search_settings(config), trainer, records, folder / "random", seed=config.TRAIN.seed + 1)
        other.run()
        random = [item for item in other.oracle.finished() if item.proposal.phase == "random"]
        uniform = next(item for item in searched if item.proposal.phase == "probe")
        best_random = best_of(random)
        assert best_random is not None
        rows = [
            [name, f"{item.val_loss:.4f}", f"{item.val_loss - found.val_loss:+.4f}"]
            for name, item in (
                (f"found by {len(searched)} trials", found),
                (f"best of {len(random)} random plans", best_random),
                ("uniform rates", uniform),
            )
        ]
        print(markdown_table(["plan", "val loss", "above the found one"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
