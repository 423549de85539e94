"""Starts the reference implementation in its own process and brings its tensors back."""

import os
import subprocess
from pathlib import Path

from safetensors.torch import load_file, save_file

from tools.places import REFERENCE, ROOT, VENV_PYTHON


def run_reference(job: str, tensors: dict, texts: dict[str, str], folder: Path, runs: int = 0) -> dict:
    """Results of `blip_reference.JOBS[job]`.

    Args:
        runs: timed repetitions; their seconds come back as `seconds`.
    """
    source, destination = folder / f"{job}-in.safetensors", folder / f"{job}-out.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, source, texts)
    command = [VENV_PYTHON, "-m", "tests.reference.blip_reference", job, source, destination]
    if runs:
        command += ["--time", str(runs)]
    environment = os.environ | {"PYTHONPATH": f"{REFERENCE}{os.pathsep}{ROOT}", "HF_HUB_OFFLINE": "1"}
    finished = subprocess.run([str(part) for part in command], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, f"The reference failed:\n{finished.stderr[-3000:]}"
    return load_file(destination)
