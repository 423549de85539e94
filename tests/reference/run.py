"""Starts the reference implementation in its own process and brings its tensors and timings back."""

import os
import subprocess
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import load_file, save_file

from tools.places import REFERENCE, ROOT, VENV_PYTHON


class Reference:
    """A job of `blip_reference` whose process is still there.

    Attributes:
        results: the tensors of its first run.
    """

    def __init__(self, process: subprocess.Popen, results: dict):
        self.results = results
        self._process = process

    def time(self) -> tuple[float, float]:
        """Run the job once more: its seconds, and the process's peak memory so far in megabytes."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        seconds, megabytes = self._process.stdout.readline().split()
        return float(seconds), float(megabytes)


@contextmanager
def reference(job: str, tensors: dict, texts: dict[str, str], folder: Path):
    """Run `blip_reference.JOBS[job]` once and keep its process for timing; its log lies in `folder`."""
    source, destination, log = (folder / f"{job}{end}" for end in ("-in.safetensors", "-out.safetensors", ".log"))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, source, texts)
    command = [VENV_PYTHON, "-m", "tests.reference.blip_reference", job, source, destination]
    environment = os.environ | {"PYTHONPATH": f"{REFERENCE}{os.pathsep}{ROOT}", "HF_HUB_OFFLINE": "1"}
    with log.open("w") as errors:
        process = subprocess.Popen(
            [str(part) for part in command],
            env=environment,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    with process:
        ready = process.stdout.readline()
        if ready != "ready\n":
            process.kill()
            raise RuntimeError(f"The reference failed:\n{log.read_text()[-3000:]}")
        yield Reference(process, load_file(destination))
        process.stdin.close()


def run_reference(job: str, tensors: dict, texts: dict[str, str], folder: Path) -> dict:
    """The results of one run."""
    with reference(job, tensors, texts, folder) as process:
        return process.results
