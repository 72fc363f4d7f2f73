"""Whether a search's short trials rank plans as long ones do, with a repair before the training and without.

    python benchmarks/search_ranks.py --config configs/wider_search.py DATA.root_path=WIDER \
        MODEL.pretrained_model=models/eresfd.keras

Some plans that leave SEARCH.target, drawn at random, are each tried in every way: from the same weights, on the same
batches, judged on the same images. The table has the rank correlation (Spearman's) of each way's validation losses with
those of both long ones, and the seconds of a trial.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lib.console import friendly_errors, start_logging
from lib.tables import markdown_table


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints the tables; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--plans", type=int, default=12)
    parser.add_argument("--long", type=int, default=200, help="steps of the trials that the others are held against")
    parser.add_argument("--short", type=int, default=12, help="steps of the others")
    parser.add_argument("--repair_images", type=int, default=24)
    parser.add_argument("settings", nargs="*", help="SECTION.name=value")
    options = parser.parse_args(arguments)
    start_logging()
    with friendly_errors():
        import numpy as np
        from scipy.stats import spearmanr

        from lib.config import load_config
        from lib.data.sources import load_data
        from lib.runs import wiring
        from lib.search.oracle import Proposal
        from lib.search.run import Search

        config = load_config(options.config, options.settings)
        trainer = wiring.make_trainer(wiring.chosen_model(config), config)
        records = load_data(wiring.data_settings(config)).train
        base = wiring.search_settings(config)
        ways = {
            f"{'repair, ' if images else ''}{steps} steps": replace(base.schooling, steps=steps, repair_images=images)
            for steps in (options.long, options.short)
            for images in (0, options.repair_images)
        }
        searches = {
            name: Search(replace(base, schooling=schooling), trainer, records, Path(config.MODEL.model_path))
            for name, schooling in ways.items()
        }
        space, target = next(iter(searches.values())).space, base.targets[0]
        rng, plans = np.random.default_rng(base.seed), list[tuple[int, ...]]()
        while len(plans) < options.plans:
            kept = space.solve(rng.uniform(size=len(space.names)) ** rng.choice([1, 3]), target)
            if kept is not None and kept not in plans:
                plans.append(kept)
        losses, seconds = {}, {}
        for name, search in searches.items():
            began = perf_counter()
            losses[name] = [search.trials(Proposal(i, "random", target, kept)).val_loss for i, kept in enumerate(plans)]
            seconds[name] = (perf_counter() - began) / len(plans)
            search.trials.restore()
            print(f"{name}: {', '.join(f'{loss:.4f}' for loss in losses[name])}", flush=True)
        long_ones = list(ways)[:2]
        rows = []
        for name, found in losses.items():
            ranks = [spearmanr(found, losses[long]).statistic for long in long_ones]
            rows.append([name, *(f"{x:.2f}" for x in (*ranks, min(found), max(found), seconds[name]))])
        with_long = [f"rank correlation with {long}" for long in long_ones]
        print(markdown_table(["a trial", *with_long, "best loss", "worst loss", "s a trial"], rows))
        print(f"\n{len(plans)} plans of {config.SEARCH.budget}, {target:g} of which are left")
    return 0


if __name__ == "__main__":
    sys.exit(main())
