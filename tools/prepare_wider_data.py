"""Turns WIDER FACE's annotation text into train.txt and val.txt: lines `path| x1,y1,x2,y2,1 ...`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lib.console import friendly_errors, start_logging


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes both files and says what is in them; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True, help="WIDER FACE: WIDER_train, WIDER_val and wider_face_split")
    parser.add_argument("--output", default=".", help="folder for train.txt and val.txt (default: here)")
    options = parser.parse_args(arguments)
    start_logging()
    with friendly_errors():
        from lib.data.annotations import convert_split

        for split in ("train", "val"):
            file = Path(options.output) / f"{split}.txt"
            counts = convert_split(options.root, split, file)
            print(
                f"{file}: {counts.images} images, {counts.faces} faces; {counts.dropped} boxes of zero size dropped; "
                f"{counts.faceless} images without faces kept as lines without boxes"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
