"""Run a Python program that ends when the process that started it does, whatever ended that: `leash.py PROGRAM ARG...`.

The starting process holds the other end of this one's standard input and never writes. The system closes it when that
process is gone, also after a kill -9 or when its terminal is closed, on Linux, macOS and Windows alike. Nothing of this
project is imported: any Python that a ComfyUI runs on can read this file.
"""

import os
import runpy
import sys
import threading


def main():
    """Take standard input as the leash, give the program an empty one, and run it in this process."""
    leash = os.dup(0)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    threading.Thread(target=_end_with, args=(leash,), name="leash", daemon=True).start()
    program = sys.argv[1]
    sys.argv = sys.argv[1:]
    sys.path[0] = os.path.dirname(os.path.abspath(program))  # as Python does for the program that it is given
    runpy.run_path(program, run_name="__main__")


def _end_with(leash):
    """Wait until nobody holds the other end."""
    try:
        while os.read(leash, 1024):
            pass
    except OSError:
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
