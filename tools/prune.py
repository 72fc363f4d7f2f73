"""Takes channels out of a model in one go, without training: the least important ones, or those that are zero already.

python tools/prune.py --ckpt_path A.keras --rates 0.4 --output B.keras --check
python tools/prune.py --ckpt_path A.keras --macs 0.5 [--scope global] --output B.keras
python tools/prune.py --ckpt_path A.keras --explain [--dot A.dot]
python tools/prune.py --ckpt_path A.keras --rates 0.1875 --repair FOLDER [--annotations FILE] --output B.keras
python tools/prune.py --ckpt_path A.keras --zeros [--output B.keras] [--check]
python tools/prune.py --ckpt_path yunet_n.pth --rates 0.125 --repair FOLDER --opencv face.onnx
"""

import argparse
import json
import reprlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lib.console import friendly_errors, start_logging, whole_number
from lib.errors import ConfigError
from lib.files import repeated, require_output

RANDOM_IMAGES = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Plans, prints the plan, removes, saves and, on request, checks; returns the exit status."""
    options = _parser().parse_args(arguments)
    start_logging()
    with friendly_errors():
        _require_outputs(options, options.ckpt_path)
        rates = None if options.rates is None else _rates(options.rates)
        budget = {"macs": options.macs, "parameters": options.parameters}
        budget = {name: share for name, share in budget.items() if share is not None}

        import keras  # TensorFlow takes seconds

        from lib.models import save
        from lib.pruning import CostModel, apply_masks, explain, plan, removable_part, removal_report, shrink
        from lib.tables import removal_table

        model, protected = _model(options), tuple(options.protected)
        if options.explain:
            found = explain(model, protected, (options.height, options.width))
            print(found)
            if options.dot:
                found.write_dot(options.dot)
            return 0
        if options.check or options.repair:  # what would fail after the work
            from lib.data.images import image_files
            from lib.evaluation.equality import require_image_input

            require_image_input(model)
            for folder in filter(None, (options.images, options.repair)):
                image_files(folder)
        masked = keras.models.clone_model(model)
        masked.set_weights(model.get_weights())
        if not options.zeros:
            masks = plan(
                model,
                rates,
                criterion=options.criterion,
                mode=options.mode,
                channel_divisor=options.channel_divisor,
                min_channels=options.min_channels,
                protected=protected,
                seed=options.seed,
                scope=options.scope,
                floor=options.floor,
                size_px=(options.height, options.width),
                **budget,
            )
            apply_masks(masked, masks)
        if options.zeros or options.mode == "per_layer":
            part = removable_part(masked, protected)
            masks = part.masks
            print(f"{len(part.zero_filters)} filters are all zero; of these")
            for outcome, count in part.counts().items():
                print(f"  {count:5d}  {outcome}")
        cost = CostModel(model, options.height, options.width, protected)
        print(removal_table(removal_report(cost, masks)))
        print(f"MACs at {options.height}x{options.width} (height x width)")
        small = shrink(masked, masks)
        status = _check(masked, small, options) if options.check or options.repair else 0
        if options.repair:
            _repair(model, small, masks, options)
        for path, made in ((options.output, small), (options.masked, masked)):
            if path is not None:
                save(made, path)
                print(f"{path}: {Path(path).stat().st_size:,} bytes")
        if options.opencv is not None:
            from lib.detection.formats.opencv import write_opencv

            print(f"{options.opencv}: {write_opencv(small, options.opencv):,} bytes, loaded by OpenCV")
        return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--ckpt_path", required=True, help="a .keras file, a run folder (its last model), or published weights"
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--rates",
        help='a rate, or a JSON file {"pattern of set or layer names": rate, ...}, or rates_*.json of a search',
    )
    what.add_argument("--macs", type=float, help="the share of the multiply-accumulates that is left, met exactly")
    what.add_argument("--parameters", type=float, help="the share of the parameters that is left, met exactly")
    what.add_argument("--explain", action="store_true", help="only say which channels can go, and why others must stay")
    what.add_argument("--zeros", action="store_true", help="only what is zero already, and say why the rest must stay")
    parser.add_argument("--scope", default="set", choices=("set", "global"), help="of a budget (set)")
    parser.add_argument("--floor", type=float, default=0.1, help="scope global: the share that every set keeps (0.1)")
    parser.add_argument("--dot", help="with --explain: a .dot file for the graph in graphviz' language")
    parser.add_argument("--output", help="the .keras file for the smaller model")
    parser.add_argument("--opencv", help="an .onnx file for the smaller YuNet, for cv2.FaceDetectorYN")
    parser.add_argument("--masked", help="a .keras file for the model with zeros in place of what goes")
    parser.add_argument("--check", action="store_true", help="compare both models; status 1 if they differ")
    parser.add_argument("--images", help="a folder of images to compare them on too")
    parser.add_argument("--repair", help="a folder of training photographs to repair the smaller model on")
    parser.add_argument("--annotations", help="their faces, in WIDER FACE's text format, paths relative to that folder")
    parser.add_argument("--repair_images", type=whole_number(1), default=192, help="photographs to repair it on (192)")
    parser.add_argument("--criterion", default="fpgm", help="fpgm, l1, l2, lamp, gamma or random (fpgm)")
    parser.add_argument("--mode", default="removable", choices=("removable", "per_layer"))
    parser.add_argument(
        "--channel_divisor", "--round_to", type=whole_number(1), default=1, help="kept channels: a multiple of this (1)"
    )
    parser.add_argument(
        "--min_channels", type=whole_number(0), default=1, help="so many stay; 0: a rate of 1 empties a set (1)"
    )
    parser.add_argument("--protected", nargs="*", default=[], help="patterns of layers whose channels stay")
    parser.add_argument(
        "--height", type=whole_number(1, 2**16), default=480, help="input height for the MACs, px (480)"
    )
    parser.add_argument("--width", type=whole_number(1, 2**16), default=640, help="input width for the MACs, px (640)")
    parser.add_argument(
        "--seed", type=whole_number(0), default=0, help="of the random criterion and of the check's images (0)"
    )
    return parser


def _require_outputs(options: argparse.Namespace, model: str | Path) -> None:
    others = [model, options.rates, options.annotations]
    for path, *endings in (
        (options.output, ".keras"),
        (options.masked, ".keras"),
        (options.opencv, ".onnx"),
        (options.dot, ".dot", ".gv"),
    ):
        if path is not None:
            require_output(path, *endings, others=others)
            others.append(path)


def _model(options: argparse.Namespace) -> Any:
    from lib.models import load
    from lib.runs.folder import model_file

    if Path(options.ckpt_path).suffix not in (".pth", ".onnx"):
        file = model_file(options.ckpt_path)
        _require_outputs(options, file)  # of a run folder it is known only now
        return load(file)
    from lib.models.published import published_model

    return published_model(options.ckpt_path)[0]


def _rates(text: str) -> float | dict[str, float]:
    try:
        return float(text)
    except ValueError:
        pass
    try:
        content = json.loads(Path(text).read_text(encoding="utf-8"), object_pairs_hook=_without_repetition)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"--rates {text}: expected a number or a JSON file, {error}") from error
    if isinstance(content, dict) and isinstance(content.get("rate"), dict):
        content = content["rate"]  # what a search has found
    if not isinstance(content, dict) or not all(type(rate) in (int, float) for rate in content.values()):
        raise ConfigError(f'--rates {text}: expected {{"pattern": rate, ...}}, found {reprlib.repr(content)}')
    return content


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; ValueError if a name is in it twice."""
    if (name := repeated(pairs)) is not None:
        raise ValueError(f"{name[:80]!r} stands in it twice; leave one away")
    return dict(pairs)


def _repair(model: Any, small: Any, masks: Any, options: argparse.Namespace) -> None:
    """Repairs `small` on photographs drawn by the seed, and prints what it still misses."""
    from dataclasses import asdict

    import numpy as np

    from lib.data.annotations import Record, read_annotations
    from lib.data.images import image_files, read_rgb
    from lib.data.sources import draw_readable
    from lib.pruning import repair
    from lib.tables import repair_table

    files = image_files(options.repair)
    known = {}
    if options.annotations:
        records = read_annotations(options.annotations, options.repair, check_images=False)
        known = {record.image.resolve(): record for record in records}
    no_faces = np.zeros((0, 4), np.float32)
    all_of_them = [known.get(file.resolve(), Record(str(file), file, no_faces, "")) for file in files]
    drawn, unreadable = draw_readable(all_of_them, options.repair_images, options.seed)
    for message in unreadable:
        print(f"left out: {message}")
    boxes = [record.boxes_xyxy_px for record in drawn]
    report = repair(model, small, masks, (read_rgb(record.image) for record in drawn), boxes, seed=options.seed)
    print(repair_table([asdict(layer) for layer in report.layers]))
    faces = sum(map(len, boxes))
    print(
        f"repaired on {report.images} images with {faces} faces, {len(unreadable)} unreadable; {report.seconds:.0f} s"
    )
    print(f"activations and sums took {report.peak_bytes / 2**20:.0f} MiB at most")
    if report.underdetermined:
        print(f"fewer positions than unknowns, held by the ridge alone: {', '.join(report.underdetermined)}")
    if report.left:
        print(f"no rule, left as they are: {', '.join(report.left)}")


def _check(masked: Any, small: Any, options: argparse.Namespace) -> int:
    from lib.data.images import image_files, read_rgb
    from lib.evaluation.equality import TOLERANCE, compare_each, random_images

    sources = {"random inputs": random_images(RANDOM_IMAGES, options.seed)}
    if options.images:
        sources["images"] = [read_rgb(path) for path in image_files(options.images)]
    status = 0
    for kind, found in zip(sources, compare_each(masked, small, sources.values()), strict=True):
        print(f"{found.images} {kind}: largest difference {found.largest_difference:.3g}, allowed {TOLERANCE:g}")
        if found.detections is not None:
            same = "the same" if found.same_detections else "NOT the same"
            print(f"{found.images} {kind}: {found.detections} detections in double precision, {same} in both models")
        status |= not found.equal
    return status


if __name__ == "__main__":
    sys.exit(main())
