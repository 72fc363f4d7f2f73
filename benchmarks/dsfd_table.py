"""What each DSFD costs at 640x640, as in docs/dsfd.md: python benchmarks/dsfd_table.py [BACKBONE ...]."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lib.tables import markdown_table

SIZE_PX = 640
HEADERS = ["backbone", "parameters", "in training", "MACs", "channels of the six maps", "anchors", "in training"]


def row(name: str) -> list[str]:
    """One line of the table; the maps are what the first shot's heads read, of strides 4 to 128."""
    from lib.geometry.anchors import anchor_grid
    from lib.models import anchors_of, build, inference_model, training_anchors
    from lib.pruning.cost import count_macs, count_parameters

    model = build(name)
    part = inference_model(model)
    channels = [model.get_layer(f"first_head{level}_boxes").kernel.shape[2] for level in range(6)]
    anchors = [len(anchor_grid(spec, SIZE_PX, SIZE_PX)) for spec in (anchors_of(model), training_anchors(model)[0])]
    return [
        name,
        f"{count_parameters(part):,}",
        f"{count_parameters(model):,}",
        f"{count_macs(part, SIZE_PX, SIZE_PX):,}",
        ", ".join(map(str, channels)),
        *(f"{count:,}" for count in anchors),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit status."""
    from lib.models.backbones import BACKBONES

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backbones", nargs="*", default=list(BACKBONES))
    options = parser.parse_args(arguments)
    print(markdown_table(HEADERS, [row(name) for name in options.backbones]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
