"""Check the types of `nodes` and `blipdiff_impl`: `python -m tools.check_types [ty's own options]`.

The pack imports itself relatively, from `nodes` up to `blipdiff_impl`, as the host loads it: one package with a name
that the host makes. ty sees the same through a link to this checkout, whose name is a package's.
"""

import subprocess
import sys

from tools.host import find_host
from tools.places import CACHE, ROOT, VENV_PYTHON

NAME = "pack"
CHECKED = ("nodes", "blipdiff_impl")


def main(options):
    """Run ty; returns its exit status."""
    folder = CACHE / "types"
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / NAME
    if not link.exists() or not link.samefile(ROOT):  # the folder may serve another checkout too
        link.unlink(missing_ok=True)
        link.symlink_to(ROOT, target_is_directory=True)
    command = [
        VENV_PYTHON, "-m", "ty", "check", "--config-file", ROOT / "tools" / "ty.toml", "--python", CACHE / "venv",
        "--python-version", "3.10", "--extra-search-path", find_host(), *options,
        *(f"{NAME}/{part}" for part in CHECKED),
    ]  # fmt: skip
    return subprocess.run([str(part) for part in command], cwd=folder, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
