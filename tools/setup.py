"""Set up what the developer commands need: `python3 -m tools.setup demo|test|headline|old-host`.

Runs on the bare Python of the machine with nothing but its standard library. What is done already is not done again.
This file keeps to syntax that an old Python can read, so that it can say that it is too old.
"""

import sys

from tools.problems import Problem, run_command

OLDEST_PYTHON = (3, 10)


def main():
    """Refuse an old Python, then do the steps for the purpose named on the command line."""
    require_python(sys.version_info)
    from tools.environment import STEPS, set_up

    purposes = sys.argv[1:]
    if len(purposes) != 1 or purposes[0] not in STEPS:
        raise Problem(f"name what to set up: {', '.join(STEPS)}.")
    set_up(purposes[0])


def require_python(version):
    """Raise Problem when `version` (as sys.version_info) is older than what ComfyUI and the pack run on."""
    if tuple(version[:2]) < OLDEST_PYTHON:
        raise Problem(
            f"this needs Python 3.10 or newer, but {sys.executable} is Python {version[0]}.{version[1]}; "
            "install a newer one and name it, for example: make demo PYTHON=python3.12"
        )


if __name__ == "__main__":
    run_command(main)
