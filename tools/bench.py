"""`make bench`: run every benchmarks/bench_*.py in turn; fails when one of them does."""

import subprocess
import sys

from tools.places import ROOT
from tools.problems import Problem, run_command


def main():
    """Run the benchmarks one after the other, each in a process of its own: they measure memory and start-up too."""
    names = sorted(path.stem for path in (ROOT / "benchmarks").glob("bench_*.py"))
    failed = [name for name in names if _run(name) != 0]
    if failed:
        raise Problem(f"{len(failed)} of {len(names)} benchmarks failed: {', '.join(failed)}.")


def _run(name):
    print(f"== {name}", flush=True)
    return subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    run_command(main)
