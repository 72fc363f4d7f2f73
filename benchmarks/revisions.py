"""Whether loading and reading became slower since another revision: both, in turns, in one run.

    python benchmarks/revisions.py --against REVISION --annotations ANNOTATIONS --images FOLDER

A process imports this checkout, another one the revision, from a work tree that is removed at the end; each does the
same thing once when it is its turn, and the processor time is taken. The model is an EResFD that each built and saved,
because an older revision may not know a newer one's layers.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.turns import Server
from lib.tables import markdown_table

IMAGES = 20  # decoded a turn

# Run in either tree: for every line of the standard input the named thing once, and its processor time in answer.
SERVER = """
import logging, sys, time
from pathlib import Path
annotations, images = sys.argv[1:]
from lib.data.annotations import read_annotations
from lib.data.images import read_rgb
from lib.models import build, load
model = "eresfd.keras"
build("eresfd").save(model)
logging.disable()
files = sorted(Path(images).rglob("*.jpg"))[: int(sys.stdin.readline())]
things = {
    "a model loaded": lambda: load(model),
    "annotations read": lambda: read_annotations(annotations, images),
    "images decoded": lambda: [read_rgb(file) for file in files],
}
for line in sys.stdin:
    began = time.process_time()
    things[line.strip()]()
    print(time.process_time() - began, flush=True)
"""
THINGS = ("a model loaded", "annotations read", "images decoded")


def served(tree: Path, folder: Path, given: Sequence[str]) -> Server:
    """A process that has imported a tree and waits for its turns, in a folder of its own."""
    folder.mkdir()
    environment = {"PYTHONPATH": str(tree), "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1"}
    server = Server(["-c", SERVER, *given], environment, folder)
    server.tell(str(IMAGES))
    return server


def compared(old: Server, new: Server, thing: str, rounds: int) -> list[str]:
    """A row: the thing, milliseconds of processor time before and now at best, and the median of the ratios."""
    times: dict[int, list[float]] = {0: [], 1: []}
    for index in range(rounds + 1):
        for which in (0, 1) if index % 2 else (1, 0):
            times[which].append((old, new)[which].turn(thing))
    before, now = times[0][1:], times[1][1:]  # the first warm up
    ratio = statistics.median(b / a for a, b in zip(before, now, strict=True))
    return [thing, f"{1e3 * min(before):.1f}", f"{1e3 * min(now):.1f}", f"{min(now) / min(before):.3f}", f"{ratio:.3f}"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints a table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", required=True, help="a revision that git knows, e.g. HEAD~20")
    parser.add_argument("--annotations", required=True, help="faces in WIDER FACE's text format")
    parser.add_argument("--images", required=True, help="the folder that their paths are relative to")
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args(arguments)
    given = [str(Path(path).resolve()) for path in (options.annotations, options.images)]
    with tempfile.TemporaryDirectory() as place, ExitStack() as last:
        tree = Path(place) / "tree"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), options.against], check=True)  # noqa: S603
        last.callback(subprocess.run, [*git, "remove", "--force", str(tree)], check=True)
        servers = []
        for name, root in (("old", tree), ("new", ROOT)):
            servers.append(served(root, Path(place) / name, given))
            last.callback(servers[-1].end)
        began = time.perf_counter()
        old, new = servers
        rows = [compared(old, new, thing, options.rounds) for thing in THINGS]
    print(markdown_table(["processor time", "before, ms", "now, ms", "at best", "in turns"], rows))
    print(f"\n{options.rounds} rounds against {options.against}, {time.perf_counter() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
