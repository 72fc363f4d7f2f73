"""What the group-sparsity loss does to a small DSFD on the built-in sample set: python benchmarks/dsfd_pruning.py.

Trains configs/dsfd_mobilenet_samples.py (or takes --pretrained), goes on from there without and with the loss, takes
the channels out that are dead on all validation images, and prints what is left: channels, parameters,
multiply-accumulates, AP. The shrunk model must compute what the masked one does.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lib.config import Config, load_config
from lib.console import friendly_errors, start_logging
from lib.tables import markdown_table

ROOT = Path(__file__).resolve().parent.parent
HEADERS = ["training", "AP", "channels", "AP shrunk", "parameters", "MACs", "difference"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains, measures and prints the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=str(ROOT / "configs" / "dsfd_mobilenet_samples.py"))
    parser.add_argument("--pretrained", help="a .keras DSFD to start from; default: train the config first")
    parser.add_argument("--epochs", type=int, default=8, help="of training with and without the loss (8)")
    parser.add_argument("--learning_rate", type=float, default=5e-4)
    parser.add_argument("--alpha", type=float, default=0.02, help="weight of the loss (0.02)")
    parser.add_argument("--ratio", type=float, default=0.5, help="share of each endpoint's channels it pulls at (0.5)")
    parser.add_argument("overrides", nargs="*", metavar="SECTION.key=value")
    options = parser.parse_args(arguments)
    start_logging()
    with friendly_errors():
        config = load_config(options.config, options.overrides)
        start = options.pretrained or _trained(config)
        rows = []
        for alpha in (0.0, options.alpha):
            config.TRAIN.pruned_alpha, config.TRAIN.pruned_ratio = alpha, options.ratio
            rows.append(_row(config, start, options.epochs, options.learning_rate))
            print(markdown_table(HEADERS, rows), flush=True)
    return 0


def _trained(config: Config) -> Path:
    from lib.runs.folder import model_file
    from lib.runs.job import run

    run(config)
    return model_file(config.MODEL.model_path)


def _row(config: Config, start: str | Path, epochs: int, learning_rate: float) -> list[str]:
    from lib.data.images import read_rgb
    from lib.data.sources import load_data
    from lib.detection import FaceDetector
    from lib.evaluation.ap import evaluate
    from lib.models import inference_model, load
    from lib.pruning import apply_masks, dead_channels, largest_difference, shrink
    from lib.pruning.cost import count_macs, count_parameters
    from lib.runs.wiring import data_settings, make_trainer

    began = time.perf_counter()
    data = load_data(data_settings(config))
    trainer = make_trainer(load(start), config)
    train = trainer.dataset(data.train, augment=True)
    trainer.train_steps(train, 0, epochs * len(train), learning_rate)
    if trainer.sparsity:
        trainer.sparsity.detach()
    images = [read_rgb(record.image) for record in data.val]

    def measured(model: Any) -> tuple[float, int, int]:
        part = inference_model(model)
        ap, _ = evaluate(FaceDetector(part), data.val, config.TEST.score_thres)
        return ap, count_parameters(part), count_macs(part, config.COST.hin, config.COST.win)

    ap, parameters, macs = measured(trainer.model)
    masks = dead_channels(inference_model(trainer.model), images)
    dead = sum(len(channels) for channels in masks.channels.values())
    masked = inference_model(load(start))
    masked.set_weights(inference_model(trainer.model).get_weights())
    apply_masks(masked, masks)
    small = shrink(masked, masks)
    difference = largest_difference(masked, small, images[0][None].astype("float32"))
    small_ap, small_parameters, small_macs = measured(small)
    total = sum(item.size for item in _sets(masked))
    alpha = config.TRAIN.pruned_alpha
    print(f"alpha {alpha:g}: {epochs} epochs and all measurements took {time.perf_counter() - began:.0f} s", flush=True)
    return [
        f"alpha {alpha:g}",
        f"{ap:.4f}",
        f"{total - dead} of {total}",
        f"{small_ap:.4f}",
        f"{small_parameters:,} of {parameters:,}",
        f"{small_macs / 1e6:.1f} M of {macs / 1e6:.1f} M",
        f"{difference:.1e}",
    ]


def _sets(model: Any) -> list[Any]:
    from lib.pruning import channel_sets

    return channel_sets(model)


if __name__ == "__main__":
    sys.exit(main())
