"""What pruning costs a classifier, and what repair and training give back: python benchmarks/repair_classifier.py.

MobileNetV2 of keras.applications learns the 1,797 handwritten digits that scikit-learn ships, loses channels until
`--macs` of its multiply-accumulates are left, and is measured on digits that it never saw: whole, bare, with its batch
statistics measured anew, repaired on training images without their labels, and trained further.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import keras
import numpy as np
from sklearn.datasets import load_digits

from lib.arrays import FloatArray, IntArray
from lib.pruning import plan, recalibrate, repair, shrink
from lib.pruning.cost import count_macs, count_parameters
from lib.tables import markdown_table

SIDE_PX = 32
HELD_BACK = 360  # digits that nothing is learnt from
REPAIRED_ON = 192  # of the others


def digits() -> tuple[FloatArray, IntArray]:
    """Images float32 [1797, 32, 32, 3], -1..1, and their classes, in an order drawn by a seed."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    small = data.images[order].astype(np.float32) / 8 - 1
    large = keras.ops.convert_to_numpy(keras.ops.image.resize(small[..., None], (SIDE_PX, SIDE_PX)))
    return np.repeat(large, 3, axis=-1), data.target[order]


def train(model: keras.Model, images: FloatArray, classes: IntArray, epochs: int, rate: float) -> None:
    """Adam, a cosine, batches of 64; then batch statistics as they are, since the network's move by 0.001 a step."""
    steps = epochs * -(-len(images) // 64)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps))
    model.compile(optimizer, "sparse_categorical_crossentropy")
    model.fit(images, classes, 64, epochs, verbose=0)
    recalibrate(model, images[:REPAIRED_ON])


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--macs", type=float, default=0.5, help="the share that is left (0.5)")
    parser.add_argument("--epochs", type=int, default=20, help="of the first training (20)")
    parser.add_argument("--more_epochs", type=int, default=5, help="of the training after pruning (5)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    keras.utils.set_random_seed(options.seed)
    images, classes = digits()
    seen, labels, unseen, truth = images[HELD_BACK:], classes[HELD_BACK:], images[:HELD_BACK], classes[:HELD_BACK]
    rows = []

    def measure(name: str, model: keras.Model, began: float) -> None:
        said = model.predict(unseen, verbose=0).argmax(axis=1)
        cost = f"{count_parameters(model):,}", f"{count_macs(model, SIDE_PX, SIDE_PX) / 1e6:.2f} M"
        rows.append([name, f"{(said == truth).mean():.4f}", *cost, f"{time.process_time() - began:.0f}"])
        sys.stderr.write(" | ".join(rows[-1]) + "\n")

    began = time.process_time()
    model = keras.applications.MobileNetV2((SIDE_PX, SIDE_PX, 3), weights=None, classes=10)
    train(model, seen, labels, options.epochs, 1e-3)
    measure("whole", model, began)
    began = time.process_time()
    masks = plan(model, macs=options.macs)
    measure("bare", shrink(model, masks), began)
    began, small = time.process_time(), shrink(model, masks)
    recalibrate(small, seen[:REPAIRED_ON])
    measure("recalibrated", small, began)
    began, small = time.process_time(), shrink(model, masks)
    repair(model, small, masks, seen[:REPAIRED_ON])
    measure("repaired", small, began)
    began = time.process_time()
    train(small, seen, labels, options.more_epochs, 3e-4)
    measure(f"repaired, then {options.more_epochs} epochs", small, began)
    began, small = time.process_time(), shrink(model, masks)
    train(small, seen, labels, options.more_epochs, 3e-4)
    measure(f"bare, then {options.more_epochs} epochs", small, began)
    print(markdown_table(["model", "accuracy", "parameters", "MACs", "CPU s"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
