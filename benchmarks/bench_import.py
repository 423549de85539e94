"""What the pack adds to the host's start: importing it and listing its nodes, in fresh processes."""

from __future__ import annotations

import statistics
import subprocess
import sys

from tools.places import ROOT

from .measure import machine

RUNS = 7

PROGRAM = """
import pathlib, sys, tempfile, time
import tools.inprocess as inprocess
load_pack, seconds = inprocess.load_pack, []
def timed(*arguments):
    before, start = set(sys.modules), time.perf_counter()
    result = load_pack(*arguments)
    seconds.append(time.perf_counter() - start)
    heavy = {name.split(".")[0] for name in set(sys.modules) - before} & {"transformers", "diffusers", "accelerate"}
    print(seconds[0], ",".join(sorted(heavy)) or "none")
    return result
inprocess.load_pack = timed
inprocess.load_comfy(pathlib.Path(tempfile.mkdtemp()))
"""


def main() -> None:
    print(machine())
    lines = [_run() for _ in range(RUNS)]
    times = sorted(float(line[0]) for line in lines)
    print(
        f"import of the pack: median {statistics.median(times):.3f} s ({RUNS} runs {times[0]:.3f} to {times[-1]:.3f}, "
        f"goal at most 0.15); heavy libraries it imports: {lines[0][1]}"
    )


def _run() -> list[str]:
    finished = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True)
    return finished.stdout.split()[-2:]


if __name__ == "__main__":
    main()
