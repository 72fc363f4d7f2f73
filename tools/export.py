"""Writes a trained detector in the formats that devices run, and says what each costs and how far it agrees with Keras.

python tools/export.py --model runs/a --output exported --formats litert,onnx --size 480x640 --check
python tools/export.py --model A.keras --output exported --formats litert --precision float32,int8 --images PHOTOGRAPHS
"""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lib.console import friendly_errors, start_logging, whole_number
from lib.errors import ConfigError
from lib.files import require_output_folder

FORMATS = "keras,pb,saved_model,litert,onnx"


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes, measures, prints; exit status 1 if --check finds a floating-point format that differs from Keras."""
    options = _parser().parse_args(arguments)
    start_logging()
    # Read when TensorFlow starts: all formats are timed on one thread.
    os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = "1"
    with friendly_errors():
        require_output_folder(options.output)
        size = _size(options.size)
        if options.val_annotations and not options.val_images:
            raise ConfigError("--val_annotations needs --val_images, the folder that its paths are relative to")
        precisions = options.precision.split(",")
        if "int8" in precisions and (options.any_size or not options.images):
            raise ConfigError(
                "int8 needs a fixed size and --images: a folder of your photographs, on which ranges are measured"
            )

        from lib.detection.export import check_files, check_names, export  # TensorFlow takes seconds
        from lib.detection.lint import fallbacks, lint
        from lib.evaluation.exports import agrees, report
        from lib.files import write_json
        from lib.models import load
        from lib.runs.folder import model_file
        from lib.tables import export_table

        formats = options.formats.split(",")
        check_names(formats, precisions)
        checkpoint = model_file(options.model)
        check_files(options.output, formats, precisions, checkpoint)
        model = load(checkpoint)
        for note in lint(model, precisions):
            print(f"note: {note}")
        images = _photographs(options.images, size, options.calibration_images, options.seed) if options.images else []
        written = export(model, options.output, formats, precisions, None if options.any_size else size, images)
        for one in written:
            if one.format == "litert":
                for note in fallbacks(one.path.read_bytes()):
                    print(f"note: {one.path.name}: {note}")
        seen, records = _seen(options)
        rows = report(checkpoint, written, size, seen, records, options.rounds)
        write_json(Path(options.output) / "export.json", {"size": list(size), "images": len(seen), "rows": rows})
        print(export_table(rows))
        print(
            f"\nms: image to boxes at {size[0]}x{size[1]} (height x width), one thread, the shortest of "
            f"{options.rounds} in turns\n"
            f"changed: detections on {len(seen)} images that the Keras model or the file has alone"
        )
        if records:
            print(f"AP on {len(records)} images; files of a fixed size see them fitted to it, the others as they are")
        return int(options.check and not agrees(rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a .keras file, or a run folder (then its last model)")
    parser.add_argument("--output", required=True, help="the folder for detector.*")
    parser.add_argument("--formats", default=FORMATS, help=f"any of {FORMATS} (these), and opencv, of a YuNet")
    parser.add_argument("--precision", default="float32", help="of LiteRT: float32,float16,int8 (float32)")
    parser.add_argument("--size", default="480x640", help="height x width of LiteRT and ONNX files, px (480x640)")
    parser.add_argument("--any_size", action="store_true", help="LiteRT and ONNX files take any size")
    parser.add_argument("--images", help="a folder of photographs like those of the device, for int8")
    parser.add_argument("--calibration_images", type=whole_number(1), default=96, help="how many of them are used (96)")
    parser.add_argument("--val_images", help="a folder of photographs to compare the formats on; default: drawn scenes")
    parser.add_argument("--val_annotations", help="their faces, in WIDER FACE's text format: tells AP")
    parser.add_argument(
        "--compared_images", type=whole_number(1), default=20, help="images that the formats are compared on (20)"
    )
    parser.add_argument("--rounds", type=whole_number(1), default=30, help="of the timing (30)")
    parser.add_argument("--check", action="store_true", help="status 1 if a floating-point format differs from Keras")
    parser.add_argument("--seed", type=whole_number(0), default=0, help="which photographs are used (0)")
    return parser


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text)
    size = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 16 <= min(size) <= max(size) <= 8192:
        raise ConfigError(f"--size {text[:20]}: expected height x width in px, such as 480x640, 16 to 8192 each")
    return size


def _photographs(folder: str, size: tuple[int, int], count: int, seed: int) -> list[Any]:
    """Some images of a folder, drawn by the seed, as the detector will see them."""
    import numpy as np

    from lib.data.images import image_files, read_rgb
    from lib.detection.detector import fit

    files = image_files(folder)
    chosen = np.random.default_rng(seed).permutation(len(files))[:count]
    return [fit(read_rgb(files[index]), size)[0] for index in sorted(chosen)]


def _seen(options: argparse.Namespace) -> tuple[list[Any], list[Any]]:
    """The images to compare on, and the annotated ones for AP."""
    import numpy as np

    from lib.data.annotations import read_annotations
    from lib.data.images import image_files, read_rgb
    from lib.data.scenes import draw_scene

    if not options.val_images:
        random = np.random.default_rng(options.seed)
        return [draw_scene(random)[0] for _ in range(options.compared_images)], []
    files = image_files(options.val_images)
    step = max(1, len(files) // options.compared_images)
    records = read_annotations(options.val_annotations, options.val_images) if options.val_annotations else []
    return [read_rgb(file) for file in files[::step][: options.compared_images]], records


if __name__ == "__main__":
    sys.exit(main())
