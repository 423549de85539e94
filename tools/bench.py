"""`make bench`: run every benchmarks/bench_*.py in turn, or with DEVICE=gpu benchmarks/gpu.py, and write what they
print into docs/benchmarks.md."""

import datetime
import platform
import subprocess
import sys
import threading
from importlib.metadata import version
from pathlib import Path

from tools.host_source import PINNED_VERSION
from tools.places import ROOT
from tools.problems import Problem, run_command

PAGE = ROOT / "docs" / "benchmarks.md"
HEADING = "## The last run"
GPU_HEADING = "## On a GPU"
GPU_LIMIT = 600  # seconds


def main():
    """Run what `sys.argv` names: "cpu" (everything) or "gpu"."""
    device = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    if device not in ("cpu", "gpu"):
        raise Problem(f"DEVICE={device} is not known; it can be cpu or gpu.")
    if device == "gpu":
        _run_on_gpu()
    else:
        _run_all()


def _run_all():
    """Every benchmark in a process of its own: they measure memory and start-up too."""
    names = sorted(path.stem for path in (ROOT / "benchmarks").glob("bench_*.py"))
    printed = {name: _run(name) for name in names}
    failed = [name for name, lines in printed.items() if lines is None]
    if failed:
        raise Problem(f"{len(failed)} of {len(names)} benchmarks failed: {', '.join(failed)}. The page stays as it is.")
    _write(page_with(PAGE.read_text(encoding="utf-8"), printed))


def page_with(page, printed):
    """The page's text with its last section made again; `printed`: lines by name of the benchmark."""
    notes = page.partition(HEADING)[0].rstrip()
    blocks = [f"`{name}`\n\n" + "\n".join(f"    {line}" for line in lines) for name, lines in printed.items()]
    return "\n\n".join([notes, HEADING, machine(), *blocks]) + "\n"


def _run_on_gpu():
    import torch

    if not torch.cuda.is_available():
        raise Problem(
            "PyTorch sees no GPU here, so nothing was measured and the page stays as it is. `make bench` without "
            "DEVICE measures on the CPU."
        )
    lines = _run("gpu", GPU_LIMIT)
    if not lines:
        raise Problem("the benchmark failed, or printed nothing in its ten minutes. The page stays as it is.")
    _write(page_with_gpu(PAGE.read_text(encoding="utf-8"), lines))


def page_with_gpu(page, lines):
    """The page's text with its section on GPUs made again, which stands before the last run."""
    before, heading, last = page.partition(HEADING)
    printed = "\n".join(f"    {line}" for line in lines)
    notes = before.partition(GPU_HEADING)[0].rstrip()
    return "\n\n".join([notes, GPU_HEADING, f"`make bench DEVICE=gpu`, {machine()}", printed]) + f"\n\n{heading}{last}"


def _run(name, limit=None):
    """The lines that a benchmark printed, those until then if it is ended after `limit` seconds, None if it failed.

    They are shown as they come.
    """
    print(f"== {name}", flush=True)
    command = [sys.executable, "-m", f"benchmarks.{name}"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        over = threading.Event()

        def end():
            over.set()
            process.kill()

        clock = threading.Timer(limit or threading.TIMEOUT_MAX, end)
        clock.daemon = True
        clock.start()
        lines = []
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip())
        clock.cancel()
    if over.is_set() and lines:
        return [*lines, f"ended after {limit:.0f} seconds; what would have come next was not measured"]
    return None if process.returncode else lines


def machine():
    """Where and with what the numbers were made."""
    named = [f"{name} {version(name)}" for name in ("torch", "diffusers", "transformers")]
    python = f"Python {platform.python_version()}"
    return f"{datetime.date.today()}; {_processor()}; {', '.join([python, *named, f'ComfyUI {PINNED_VERSION}'])}."


def _processor():
    described = Path("/proc/cpuinfo")
    text = described.read_text(encoding="utf-8") if described.exists() else ""
    models = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return f"{len(models)} cores of {models[0]}" if models else platform.machine()


def _write(text):
    temporary = PAGE.with_suffix(".partial")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(PAGE)


if __name__ == "__main__":
    run_command(main)
