"""Draws what a run's detector finds in scenes like the built-in ones, before pruning beside after it, into one picture.

The scenes are drawings, not photographs, and none that it was trained on.
Green: found. Red: found before and not after. Grey: missed. Orange: no face.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lib.console import friendly_errors, start_logging, whole_number
from lib.errors import ModelError
from lib.files import require_output

if TYPE_CHECKING:
    from lib.data.annotations import Record

RUN = "runs/eresfd_samples"  # of `make train`
SCENES = 4
SIZE_PX = (480, 640)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draws the picture and says where it is; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=RUN, help="a run folder, a .keras file, or published weights")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/demo.jpg"),
        help="the picture, which replaces a file of its name (runs/demo.jpg)",
    )
    parser.add_argument("--seed", type=whole_number(0), default=0, help="of the scenes (0)")
    options = parser.parse_args(arguments)
    start_logging()
    with friendly_errors():
        require_output(options.output, ".jpg", ".png", others=[options.model])
        first, last = _models(options.model)

        import numpy as np

        from lib.data.images import read_rgb, write_rgb
        from lib.detection.formats.pb import DetectionSettings
        from lib.runs.report.findings import look

        with tempfile.TemporaryDirectory() as place:
            found = look(first, last, _scenes(Path(place), options.seed), DetectionSettings(), SIZE_PX)
            pairs = []
            for number, (_, coded) in enumerate(found.pictures):
                file = Path(place) / f"pair{number}.jpg"
                file.write_bytes(coded)
                pairs.append(read_rgb(file))
        write_rgb(options.output, np.vstack([np.hstack(pairs[at : at + 2]) for at in range(0, SCENES, 2)]))
        what = f"{first.stem}, and on the right {last.stem}" if first != last else first.stem
        lost = f", {found.lost} of them not any more" if first != last else ""
        print(f"{options.output}: {what} on {SCENES} drawn scenes; {found.found} faces found{lost}")
    return 0


def _scenes(folder: Path, seed: int) -> "list[Record]":
    """New scenes, as images with their faces."""
    import numpy as np

    from lib.data.annotations import Record
    from lib.data.images import write_rgb
    from lib.data.scenes import draw_scene

    records = []
    for number in range(SCENES):
        image, boxes = draw_scene(np.random.default_rng([seed, 2, number]))  # 0 and 1 are the sample set's halves
        file = folder / f"{number}.png"
        write_rgb(file, image)
        records.append(Record(file.name, file, boxes, str(file)))
    return records


def _models(name: str) -> tuple[Path, Path]:
    """The first and the last model of a run; of anything else it twice."""
    from lib.runs.folder import model_file
    from lib.runs.report.making import first_and_last

    folder = Path(name)
    if (folder / "state.json").is_file() and (both := first_and_last(folder)):
        return both
    if name == RUN and not folder.exists():
        raise ModelError(f"{folder}: no such run; `make train` makes it in some minutes, or name a model by --model")
    file = model_file(name)
    return file, file


if __name__ == "__main__":
    sys.exit(main())
