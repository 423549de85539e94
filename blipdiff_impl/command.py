"""How the commands of this package end: with status 0, or with one sentence and status 2, or with 130 after Ctrl-C."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from .errors import SubjectError, one_line

FAILED, INTERRUPTED = 2, 130

_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def exit_status(work: Callable[[], int | None]) -> int:
    """Call `work` and give the status that the process should end with; what went wrong is said on stderr."""
    try:
        return work() or 0
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read the output has ended, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        if sys.flags.dev_mode:  # `python -X dev`, whoever develops the pack
            traceback.print_exc()
        print(f"error: {sentence(error)}", file=sys.stderr)
        return FAILED


def sentence(error: Exception) -> str:
    """What an error says to a user."""
    if isinstance(error, SubjectError):
        return str(error)
    if isinstance(error, MemoryError) or any(words in str(error).lower() for words in _NO_MEMORY):
        return "There is not enough memory for this. Close other programs, or ask for less at once (a smaller batch)."
    if isinstance(error, OSError) and error.strerror:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"The disk is full{_of(error)}. Free some space and run the same command again."
        return f"The system refused{_of(error)}: {error.strerror}."
    place = traceback.extract_tb(error.__traceback__)[-1:]
    where = f" in {Path(place[0].filename).name}, line {place[0].lineno}" if place else ""
    return f"Something unforeseen went wrong{where}: {one_line(error)}. `python -X dev -m ...` shows how it came about."


def require_device(name: str) -> None:
    """Refuse a device that PyTorch cannot compute on here.

    Raises:
        SubjectError: no such word, no driver, or no such GPU.
    """
    import torch

    try:
        device = torch.device(name)
        torch.ones(1, device=device).sum().item()
    except Exception as error:  # a RuntimeError, an AssertionError (without CUDA), a NotImplementedError (meta), ...
        known = ["cpu"] + [f"cuda:{number}" for number in range(torch.cuda.device_count())]
        if torch.backends.mps.is_available():
            known.append("mps")
        raise SubjectError(
            f"--device {one_line(name, 40)} cannot be used here; there is {', '.join(known)}. (A GPU is there only "
            "with its driver, and with a PyTorch that was made for it.)"
        ) from error


def _of(error: OSError) -> str:
    return f" {one_line(error.filename)}" if error.filename else ""
