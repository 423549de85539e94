"""`make bench`: run every benchmarks/bench_*.py in turn, and write what they print into docs/benchmarks.md."""

import datetime
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from tools.host_source import PINNED_VERSION
from tools.places import ROOT
from tools.problems import Problem, run_command

PAGE = ROOT / "docs" / "benchmarks.md"
HEADING = "## The last run"


def main():
    """Run the benchmarks one after the other, each in a process of its own: they measure memory and start-up too."""
    names = sorted(path.stem for path in (ROOT / "benchmarks").glob("bench_*.py"))
    printed = {name: _run(name) for name in names}
    failed = [name for name, lines in printed.items() if lines is None]
    if failed:
        raise Problem(f"{len(failed)} of {len(names)} benchmarks failed: {', '.join(failed)}. The page stays as it is.")
    _write(page_with(PAGE.read_text(encoding="utf-8"), printed))


def page_with(page, printed):
    """The page's text with its last section made anew; `printed`: lines by name of the benchmark."""
    notes = page.partition(HEADING)[0].rstrip()
    blocks = [f"`{name}`\n\n" + "\n".join(f"    {line}" for line in lines) for name, lines in printed.items()]
    return "\n\n".join([notes, HEADING, _machine(), *blocks]) + "\n"


def _run(name):
    """The lines that a benchmark printed, None if it failed. They are shown as they come."""
    print(f"== {name}", flush=True)
    command = [sys.executable, "-m", f"benchmarks.{name}"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        lines = []
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip())
    return None if process.returncode else lines


def _machine():
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
