"""Turns published weights into a .keras model, without PyTorch and without running a pickle.

Known are EResFD's and B-FPGM's (.pth) and YuNet's (.pth, or .onnx, whose batch normalisations are folded away).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lib.console import friendly_errors, start_logging
from lib.errors import ConfigError
from lib.files import require_output


def main(arguments: Sequence[str] | None = None) -> int:
    """Imports, saves and reports what became of every tensor; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", required=True, help="a .pth or .onnx file, or the prefix of EResFD's five files")
    parser.add_argument("--output", required=True, help="the .keras file to write")
    parser.add_argument(
        "--anchor_ratio",
        type=float,
        help="anchor height / width: 1.25 for EResFD's weights, 1.0 for B-FPGM's; default: by the layout of the files",
    )
    options = parser.parse_args(arguments)
    start_logging()
    with friendly_errors():
        require_output(options.output, ".keras", others=[options.weights])
        if options.anchor_ratio is not None and not 0.01 <= options.anchor_ratio <= 100:
            raise ConfigError(f"--anchor_ratio must lie in 0.01..100, got {options.anchor_ratio}")
        from lib.models import anchors_of, save
        from lib.models.published import published_model

        model, report = published_model(options.weights, options.anchor_ratio)
        save(model, options.output)
        for name, variable in report.used.items():
            print(f"used     {name} -> {variable}")
        for name, reason in report.ignored.items():
            print(f"ignored  {name}: {reason}")
        unknown = sum(reason.startswith("unknown") for reason in report.ignored.values())
        unknown_note = f", {unknown} of them unknown" if unknown else ""
        print(f"none missing, {len(report.ignored)} tensors ignored{unknown_note}, {len(report.used)} variables filled")
        print(f"{options.output}: {model.name}, anchor ratio {anchors_of(model).ratio:g}")
        if Path(options.weights).suffix == ".onnx":
            print("its batch normalisations were folded: here they do nothing; to train further, take the .pth")
    return 0


if __name__ == "__main__":
    sys.exit(main())
