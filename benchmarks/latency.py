"""What removal brings on this machine: EResFD with more and more channels taken out, and three ways to half the MACs.

python benchmarks/latency.py [--model trained.keras] [--height 480 --width 640] [--rounds 60]

All variants run in turns, on one thread: compare the ratios. The frozen graph is timed without its NMS, whose time
depends on what is found, and the variants are not trained.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# Read when TensorFlow starts.
os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

RATES = (0.0625, 0.125, 0.1875, 0.25, 0.3125, 0.375)  # sixteenths: what EResFD's widths can tell apart
# What the three ways to half the multiply-accumulates take out whole; the first is an even rate.
EVENLY = 0.3125
ONE_BLOCK_A_STAGE = {
    "conv4_conv1": 0,
    **{f"stage{stage}_block{block}_conv1": 0 for stage in range(1, 6) for block in (1, 2)},
}
SMALL_BRANCHES = {f"context{level}_branch2a": 0 for level in range(6)}
MIX = {"conv4_conv1": 0, "stage1_block1_conv1": 0, "stage1_block2_conv1": 0, **SMALL_BRANCHES}


def main(arguments: Sequence[str] | None = None) -> int:
    """Takes channels out, measures, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="an EResFD of full width, .keras; default: random weights")
    parser.add_argument("--height", type=int, default=480, help="px")
    parser.add_argument("--width", type=int, default=640, help="px")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--only", choices=["rates", "half"], help="a part of the table")
    options = parser.parse_args(arguments)

    import numpy as np

    from lib.detection.formats.pb import FrozenGraph, freeze
    from lib.evaluation.latency import interleaved, litert_latencies
    from lib.models import build, load, save
    from lib.pruning import CostModel, channel_sets, plan, plan_kept, shrink
    from lib.tables import markdown_table

    model = load(options.model) if options.model else build("eresfd")
    costs = CostModel(model, options.height, options.width)
    known = {item.name for item in costs.sets}
    masks = {"original": plan(model, 0.0)}
    if options.only != "half":
        masks |= {f"evenly, {rate:.1%}": plan(model, rate) for rate in RATES}
    if options.only != "rates":
        masks[f"evenly, {EVENLY:.1%}"] = plan(model, EVENLY)
        for name, kept in (("one block a stage", ONE_BLOCK_A_STAGE), ("mix", MIX)):
            masks[name] = plan_kept(model, {key: count for key, count in kept.items() if key in known})
    models = {name: shrink(model, one) for name, one in masks.items()}

    image = np.random.default_rng(0).integers(0, 256, (options.height, options.width, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        sizes, detect = {}, {}
        for number, (name, small) in enumerate(models.items()):
            files = [Path(folder) / f"{number}{suffix}" for suffix in (".keras", ".pb")]
            save(small, files[0])
            freeze(small, files[1])
            sizes[name] = [file.stat().st_size for file in files]
            detect[name] = partial(FrozenGraph(files[1]).candidates, image[None], 1.0)
        frozen = interleaved(detect, options.rounds)
    litert = litert_latencies(models, options.height, options.width, options.rounds)

    rows = []
    for name, one in masks.items():
        cost = costs.of({item.name: item.size - len(one.channels[item.name]) for item in costs.sets})
        channels = sum(item.size for item in channel_sets(models[name]))
        shares = [cost.parameters / costs.full.parameters, cost.macs / costs.full.macs]
        shares += [size / full for size, full in zip(sizes[name], sizes["original"], strict=True)]
        cells = [f"{share:.3f}" for share in shares]
        for times in (frozen, litert):
            own, full = times[name], times["original"]
            ratio, of_medians = own.best_ms / full.best_ms, own.median_ms / full.median_ms
            cells.append(f"{own.best_ms:.2f} {ratio:.2f} ({of_medians:.2f})")
        rows.append([name, str(channels), *cells])
    print(
        markdown_table(["", "channels", "parameters", "MACs", ".keras bytes", ".pb bytes", ".pb ms", "LiteRT ms"], rows)
    )
    print(
        f"\nat {options.height}x{options.width}; ms: the shortest of {options.rounds}, its ratio to the original's, "
        "and that of the medians; everything else as a ratio to the original's"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
