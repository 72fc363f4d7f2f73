"""Thousands of damaged inputs for every door: how many are read, refused in words, or found a fault.

python benchmarks/fuzz.py [--count 5000] [--seeds 0 1 2] [--json OUT]

Every part runs in a child of its own, which is ended if one input takes longer than ten seconds, and which may take
2 GiB more memory than it starts with.
"""

import argparse
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

KINDS = ("accepted", "counted warning", "clean error", "fault")
HANG_S = 10
MEMORY_BYTES = 2 << 30
SHOWN = 20  # faults


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table and the first faults; the exit status is 1 if there is one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=5000, help="inputs a seed (5000)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", help="write the counts to this file")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--start", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child is not None:
        return _child(options.child, options.count, options.start)
    counts: Counter[tuple[str, str]] = Counter()
    faults: list[str] = []
    for seed in options.seeds:
        start = 0
        while start < options.count:
            start = _part(seed, options.count, start, counts, faults)
    doors = sorted({door for door, _ in counts})
    print(f"| door | tried | {' | '.join(KINDS)} |\n|---|{'---|' * (len(KINDS) + 1)}")
    for door in [*doors, "all"]:
        row = [sum(n for (d, k), n in counts.items() if k == kind and door in (d, "all")) for kind in KINDS]
        print(f"| {door} | {sum(row)} | " + " | ".join(map(str, row)) + " |")
    print(f"peak of a child: {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20:.2f} GiB")
    for fault in faults[:SHOWN]:
        print(f"fault: {fault}")
    if options.json:
        content = {"counts": {f"{door}: {kind}": n for (door, kind), n in counts.items()}, "faults": faults}
        Path(options.json).write_text(json.dumps(content, indent=2) + "\n")
    return bool(faults)


def _part(seed: int, count: int, start: int, counts: Counter[tuple[str, str]], faults: list[str]) -> int:
    """Runs a child from one case on; returns the case to go on with."""
    command = [sys.executable, __file__, "--child", str(seed), "--count", str(count), "--start", str(start)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)  # noqa: S603
    assert process.stdout is not None
    begun = ""
    for line in process.stdout:
        if line.startswith("begin "):
            begun = line.removeprefix("begin ").strip()
            continue
        number, door, kind, said = json.loads(line)
        counts[door, kind] += 1
        if kind == "fault":
            faults.append(said)
        start, begun = number + 1, ""
    status = process.wait()
    if status == 0:
        return count
    counts["(ended)", "fault"] += 1
    faults.append(f"seed {seed}, case {start}: the process ended with {status} in {begun or 'between two'}")
    return start + 1


def _child(seed: int, count: int, start: int) -> int:
    from tests.fuzz.generator import cases, judge

    address_space = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (address_space + MEMORY_BYTES,) * 2)
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(BrokenPipeError):
        for number, case in enumerate(cases(seed, count, Path(folder), start), start=start):
            print(f"begin {case.door}", flush=True)
            signal.alarm(HANG_S)  # its default action ends the process
            outcome = judge(case)
            signal.alarm(0)
            said = f"{case.door}: {case.what}: {outcome.said}" if outcome.kind == "fault" else ""
            print(json.dumps([number, case.door, outcome.kind, said]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
