"""`make archive`: what the ComfyUI Registry ships and the Manager installs, packed by ComfyUI's own comfy-cli.

It holds the files that git tracks, less those of .comfyignore. The command's settings and telemetry are kept off the
machine.
"""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from tools.places import CACHE, COMFY_CLI, ROOT, VENV_PYTHON
from tools.problems import Problem, run_command

ARCHIVE = CACHE / "archive" / "node.zip"


def main():
    """Check and pack; print where the archive is and how large."""
    print(comfy_cli("validate").strip())
    path = make_archive(ARCHIVE)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def make_archive(target):
    """Pack the checkout into `target`, a path; returns it.

    Raises Problem with what comfy-cli says when it fails.
    """
    packed = ROOT / "node.zip"
    said = comfy_cli("pack")
    if not packed.is_file():
        raise Problem(f"comfy-cli packed nothing:\n{said}")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(packed, target)
    return target


def comfy_cli(command):
    """What `comfy node COMMAND` prints. Raises Problem when it fails."""
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "PYTHONPATH": str(COMFY_CLI), "HOME": home, "DO_NOT_TRACK": "1", "NO_COLOR": "1"}
        environment["XDG_CONFIG_HOME"] = str(Path(home) / "config")
        environment["PATH"] = f"{COMFY_CLI / 'bin'}{os.pathsep}{environment['PATH']}"
        words = [VENV_PYTHON, "-m", "comfy_cli", "--skip-prompt", "--no-enable-telemetry", "node", command]
        ended = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    said = re.sub(r"\x1b\[[0-9;]*m", "", ended.stdout + ended.stderr)
    if ended.returncode:
        raise Problem(f"`comfy node {command}` failed:\n{said}")
    return said


if __name__ == "__main__":
    run_command(main)
