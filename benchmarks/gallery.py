"""All of keras.applications pruned: python benchmarks/gallery.py [--rate 0.4 | --macs 0.5] [--only 'ResNet*'].

Every network is built without downloaded weights, gets random scales, offsets and biases and batch statistics of noise,
and loses the given share of every set of channels. Then the masked network and the smaller one are compared on noise.
A network that is refused is shown with the reason. With --macs sets lose what a budget asks for, and the last column
says what is left of the budget, in channels of the set whose channels are cheapest.
"""

import argparse
import gc
import sys
import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from lib.errors import ToolkitError
from lib.pruning import CostModel, Masks, apply_masks, largest_difference, plan, recalibrate, shrink
from lib.pruning.cost import count_macs, count_parameters
from lib.tables import markdown_table

HEADERS = [
    "network",
    "parameters",
    "left",
    "MACs",
    "left",
    "difference",
    "build s",
    "plan + shrink s",
    "spare channels",
]


def networks() -> dict[str, Callable[..., keras.Model]]:
    """The builders of keras.applications by name."""
    return {name: made for name, made in vars(keras.applications).items() if name[0].isupper() and callable(made)}


def randomise(model: keras.Model, random: np.random.Generator, side_px: int) -> None:
    """Random vectors of weights, and batch statistics that fit them."""
    for weight in model.trainable_weights:
        if len(weight.shape) == 1:
            centre = 1.0 if weight.name == "gamma" else 0.0
            weight.assign(random.normal(centre, 0.1, weight.shape))
    recalibrate(model, [random.uniform(0, 255, (2, side_px, side_px, 3)).astype(np.float32)])
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            layer.moving_variance.assign(np.maximum(np.asarray(layer.moving_variance), 0.01))


def row(name: str, make: Callable[..., keras.Model], rate: float | None, macs: float | None, side_px: int) -> list[str]:
    """Builds, prunes and compares one network; a row of the table."""
    random = np.random.default_rng(0)
    start = time.process_time()
    model = make(weights=None, input_shape=(side_px, side_px, 3), classifier_activation=None)
    built = time.process_time() - start
    randomise(model, random, side_px)
    start = time.process_time()
    try:
        masks = plan(model, rate, macs=macs)
        small = shrink(model, masks)
    except ToolkitError as error:
        return [name, *[""] * 7, str(error)]
    took = time.process_time() - start
    counts: list[Any] = [(count(model), count(small)) for count in (count_parameters, _macs(side_px))]
    apply_masks(model, masks)
    images = random.uniform(0, 255, (2, side_px, side_px, 3)).astype(np.float32)
    largest = max(1e-30, float(np.abs(np.asarray(model(images, training=False))).max()))
    difference = largest_difference(model, small, images) / largest
    cells = [text for before, after in counts for text in (f"{before / 1e6:.2f} M", f"{after / before:.1%}")]
    spare = "" if macs is None else f"{_spare_channels(model, masks, macs, side_px):.2f}"
    return [name, *cells, f"{difference:.1e}", f"{built:.2f}", f"{took:.2f}", spare]


def _spare_channels(model: keras.Model, masks: Masks, share: float, side_px: int) -> float:
    """What a plan leaves of its budget, in channels of the set whose channels are cheapest in it."""
    costs = CostModel(model, side_px, side_px)
    kept = {item.name: item.size - len(masks.channels[item.name]) for item in costs.sets}
    left = costs.of(kept).macs
    cheapest = min(
        costs.of({**kept, item.name: kept[item.name] + 1}).macs - left
        for item in costs.sets
        if kept[item.name] < item.size
    )
    return (share * costs.full.macs - left) / cheapest


def _macs(side_px: int) -> Callable[[keras.Model], int]:
    return lambda model: count_macs(model, side_px, side_px)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table, each row as soon as it is known; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, help="the share of every set's channels that goes (0.4)")
    parser.add_argument("--macs", type=float, help="in its place, the share of the multiply-accumulates that is left")
    parser.add_argument("--only", nargs="+", default=["*"], help="patterns of names, in the order of the rows")
    parser.add_argument("--side", type=int, default=96, help="input height and width, px")
    options = parser.parse_args(arguments)
    rate = 0.4 if options.rate is None and options.macs is None else options.rate
    rows = []
    known = networks()
    for name in dict.fromkeys(name for pattern in options.only for name in known if fnmatchcase(name, pattern)):
        rows.append(row(name, known[name], rate, options.macs, options.side))
        sys.stderr.write(" | ".join(rows[-1]) + "\n")
        keras.backend.clear_session()
        gc.collect()
    print(markdown_table(HEADERS, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
