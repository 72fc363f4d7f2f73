"""Channels taken out beside single weights zeroed by tfmot, of one trained network: python benchmarks/tfmot_zeros.py.

Four convolutions learn the 1,797 handwritten digits that scikit-learn ships. `lib.pruning` takes channels out until
`--macs` of the multiply-accumulates are left; tfmot, in a process of its own on the Keras 2 that it needs, zeroes as
many weights by their size as those channels had. Both as they are, and trained for as long again. All models are
measured here, by the same code, as LiteRT files on one thread.
"""

import argparse
import gzip
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# Read when TensorFlow starts.
os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

SIDE_PX = 16
WIDTHS = (32, 64, 128, 128)  # of the convolutions; all but the first halve the image
HELD_BACK = 360  # digits that nothing is learnt from
REPAIRED_ON = 192  # images
BATCH = 64
RATE = 3e-4  # of the training after pruning
HEADER = [
    "model", "accuracy", "difference", "parameters", "zeros", "MACs", ".tflite bytes", "gzipped", "ms", "ratio",
]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains, prunes both ways, prints the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--macs", type=float, default=0.5, help="the share that is left (0.5)")
    parser.add_argument("--epochs", type=int, default=15, help="of the first training (15)")
    parser.add_argument("--more_epochs", type=int, default=5, help="of the training after pruning (5)")
    parser.add_argument("--rounds", type=int, default=300, help="of the timing (300)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--zero", metavar="FILE", help=argparse.SUPPRESS)  # what the other process is started with
    options = parser.parse_args(arguments)
    if options.zero:
        return _zero(Path(options.zero))

    import keras
    import numpy as np

    from lib.pruning import apply_masks, plan, repair, shrink
    from lib.pruning.cost import count_parameters

    keras.utils.set_random_seed(options.seed)
    images, classes = _digits()
    seen, labels = images[HELD_BACK:], classes[HELD_BACK:]
    whole = _network(keras)
    _train(keras, whole, seen, labels, options.epochs, 1e-3)

    masks = plan(whole, macs=options.macs)
    masked = _copy(whole, whole.get_weights())
    apply_masks(masked, masks)
    bare, repaired = shrink(masked, masks), shrink(masked, masks)
    repair(whole, repaired, masks, seen[:REPAIRED_ON])
    trained = _copy(repaired, repaired.get_weights())
    _train(keras, trained, seen, labels, options.more_epochs, RATE)

    zeros = count_parameters(whole) - count_parameters(bare)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "given.npz"
        weights = {f"weight{number}": weight for number, weight in enumerate(whole.get_weights())}
        how = {"zeros": zeros, "epochs": options.more_epochs, "seed": options.seed}
        np.savez(file, **how, images=seen, classes=labels, **weights)
        command = [sys.executable, __file__, "--zero", str(file)]
        subprocess.run(command, check=True, env={**os.environ, "TF_USE_LEGACY_KERAS": "1"})  # noqa: S603
        zeroed = {}
        for name in ("at once", "gradually"):
            with np.load(file.with_name(f"{name}.npz")) as made:
                zeroed[name] = _copy(whole, [made[key] for key in weights])
                said = zeroed[name].predict(seen[:BATCH], verbose=0)
                if not np.allclose(said, made["said"], atol=1e-4):
                    raise RuntimeError(f"Keras 2 and Keras 3 disagree by {np.abs(said - made['said']).max()}")
    models = {
        "whole": whole,
        "ours, bare": bare,
        "ours, repaired": repaired,
        f"ours, repaired, {options.more_epochs} epochs": trained,
        "tfmot, bare": zeroed["at once"],
        f"tfmot, {options.more_epochs} epochs": zeroed["gradually"],
    }
    _report(models, images[:HELD_BACK], classes[:HELD_BACK], options.rounds)
    return 0


def _digits() -> tuple[Any, Any]:
    """Images float32 [1797, 16, 16, 1], -1..1, and their classes, in an order drawn by a seed."""
    import cv2
    import numpy as np
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    large = [cv2.resize(image, (SIDE_PX, SIDE_PX)) for image in data.images[order].astype(np.float32) / 8 - 1]
    return np.stack(large)[..., None], data.target[order]


def _network(library: Any) -> Any:
    """The classifier, in Keras 2 or 3: the order of its weights is the same in both."""
    layers = library.layers
    x = image = library.Input((SIDE_PX, SIDE_PX, 1))
    for number, width in enumerate(WIDTHS):
        x = layers.Conv2D(width, 3, strides=1 + (number > 0), padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    return library.Model(image, layers.Dense(10, activation="softmax")(layers.GlobalAveragePooling2D()(x)))


def _train(
    library: Any, model: Any, images: Any, classes: Any, epochs: int, rate: float, callbacks: Sequence[Any] = ()
) -> None:
    """Adam and a cosine; `library` is Keras 2 or 3."""
    schedule = library.optimizers.schedules.CosineDecay(rate, epochs * -(-len(images) // BATCH))
    model.compile(library.optimizers.Adam(schedule), "sparse_categorical_crossentropy")
    model.fit(images, classes, BATCH, epochs, verbose=0, callbacks=list(callbacks))


def _copy(model: Any, weights: Sequence[Any]) -> Any:
    import keras

    copy = keras.models.clone_model(model)
    copy.set_weights(weights)
    return copy


def _report(models: dict[str, Any], unseen: Any, truth: Any, rounds: int) -> None:
    import keras
    import numpy as np
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    from lib.evaluation.latency import interleaved
    from lib.pruning.cost import count_macs, count_parameters, zero_share
    from lib.tables import markdown_table

    signature = [keras.InputSpec(shape=(1, SIDE_PX, SIDE_PX, 1), dtype="float32", name="image")]
    files: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, model in models.items():
            sparse = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY] if name.startswith("tfmot") else []
            for kind, how in ((name, []), *((f"{name}, sparse tensors", sparse) for _ in sparse)):
                file = Path(folder) / f"{len(files)}.tflite"
                model.export(file, "litert", False, signature, optimizations=how)
                files[kind] = file.read_bytes()
    runners = {}
    for kind, content in files.items():
        runners[kind] = Interpreter(model_content=content, num_threads=1)
        runners[kind].allocate_tensors()
    times = interleaved({kind: runner.invoke for kind, runner in runners.items()}, rounds)
    full = models["whole"].predict(unseen, verbose=0)
    rows = []
    for kind, content in files.items():
        model = models[kind.removesuffix(", sparse tensors")]
        said = model.predict(unseen, verbose=0)
        rows.append(
            [
                kind,
                f"{(said.argmax(axis=1) == truth).mean():.4f}",
                f"{np.abs(said - full).mean():.4f}",
                f"{count_parameters(model):,}",
                f"{zero_share(model):.1%}",
                f"{count_macs(model, SIDE_PX, SIDE_PX) / 1e6:.2f} M",
                f"{len(content):,}",
                f"{len(gzip.compress(content, 9)):,}",
                f"{times[kind].best_ms:.3f}",
                f"{times[kind].best_ms / times['whole'].best_ms:.2f}",
            ]
        )
    print(markdown_table(HEADER, rows))
    print(
        f"\n{len(truth)} digits that none had seen; difference: mean of |probability - the whole model's|; "
        f"ms: LiteRT, one thread, the shortest of {rounds} in turns, ratio to the whole model's"
    )


def _zero(file: Path) -> int:
    """In Keras 2: zeroes the weights that `file` holds, at once and gradually in training; files beside it for both."""
    import numpy as np
    import tf_keras
    from tensorflow_model_optimization import sparsity

    with np.load(file) as content:
        given = dict(content)
    images, classes, epochs = given["images"], given["classes"], int(given["epochs"])
    weights = [given[key] for key in given if key.startswith("weight")]
    for name in ("at once", "gradually"):
        tf_keras.utils.set_random_seed(int(given["seed"]))
        model = _network(tf_keras)
        model.set_weights(weights)
        share = float(given["zeros"]) / sum(weight.size for weight in weights if weight.ndim > 1)  # it zeroes kernels
        schedule: Any = sparsity.keras.ConstantSparsity(share, 0, frequency=1)
        if name == "gradually":
            steps = epochs * -(-len(images) // BATCH)
            schedule = sparsity.keras.PolynomialDecay(0.0, share, 0, steps // 2, frequency=1)
        model = sparsity.keras.prune_low_magnitude(model, schedule)
        step = sparsity.keras.UpdatePruningStep()
        if name == "gradually":
            _train(tf_keras, model, images, classes, epochs, RATE, [step])
        else:  # a step that learns nothing
            _train(tf_keras, model, images[:BATCH], classes[:BATCH], 1, 0.0, [step])
        model = sparsity.keras.strip_pruning(model)
        made = model.get_weights()
        if name == "at once":  # the step has moved the batch statistics
            made = [before if before.ndim == 1 else after for before, after in zip(weights, made, strict=True)]
            model.set_weights(made)
        named = {f"weight{number}": weight for number, weight in enumerate(made)}
        np.savez(file.with_name(f"{name}.npz"), said=model.predict(images[:BATCH], verbose=0), **named)
    return 0


if __name__ == "__main__":
    sys.exit(main())
