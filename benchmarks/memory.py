"""Whether memory grows over epochs: python benchmarks/memory.py [--epochs 10] (Linux).

Trains on the built-in scenes in a process of its own, loader, validation and checkpoints included, and prints that
process's resident memory after every epoch.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from lib.tables import markdown_table


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains and prints a table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--size", type=int, default=160, help="input height and width, px")
    options = parser.parse_args(arguments)
    resident: list[int] = []
    with TemporaryDirectory() as folder:
        settings = ["TRAIN.stages=pretrain,", f"PRETRAIN.epoch={options.epochs}", f"MODEL.model_path={folder}/run"]
        settings += [f"DATA.{side}={options.size}" for side in ("hin", "win")]
        command = [sys.executable, str(ROOT / "pruned_train.py"), *settings]
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603
            assert process.stderr is not None
            for line in process.stderr:
                if line.startswith("INFO epoch "):
                    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
                    resident.append(pages * os.sysconf("SC_PAGE_SIZE"))
        if process.returncode:
            sys.stderr.write(f"pruned_train.py failed with status {process.returncode}\n")
            return 1
    rows = []
    for epoch, size in enumerate(resident):
        growth = f"{size / resident[epoch - 1] - 1:+.2%}" if epoch else ""
        rows.append([str(epoch + 1), f"{size / 2**20:.1f}", growth])
    print(markdown_table(["epoch", "resident MiB", "growth"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
