"""One run at a time in a folder. The lock is the system's, so that it ends with the process, however that ends."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Generator
from pathlib import Path

from .errors import SubjectError, one_line

_NAME = ".running"


@contextlib.contextmanager
def only_run_in(folder: Path, what: str = "") -> Generator[None]:
    """Hold the folder while the block lasts.

    Args:
        folder: is there, and can be written to.
        what: name of the one thing in the folder that is held; empty is all of it.

    Raises:
        SubjectError: another process holds it, with its number.
    """
    path = folder / f"{_NAME}{'-' if what else ''}{what}"
    held = _take(path)
    if held is None:
        holder = _holder(path)
        raise SubjectError(
            f"Another run is writing to {folder / what}{holder}. Wait for its end, end it, or choose another --out."
        )
    try:
        yield
    finally:
        # Removed while it is held: whoever waits in `_take` then sees that its file is no longer the one of that name.
        with contextlib.suppress(OSError):  # Windows removes no file that is open
            path.unlink()
        os.close(held)
        with contextlib.suppress(OSError):
            path.unlink()


def _take(path: Path) -> int | None:
    """The open file that is locked now, None if another process has it."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not _lock(file):
                os.close(file)
                return None
            if os.path.samestat(os.fstat(file), os.stat(path)):
                os.truncate(file, 0)
                os.write(file, str(os.getpid()).encode())
                return file
        except FileNotFoundError:  # removed by the run that had it, after it was opened here
            pass
        os.close(file)


def _lock(file: int) -> bool:
    if sys.platform == "win32":
        import msvcrt

        os.lseek(file, 1 << 20, os.SEEK_SET)  # behind the content, which stays readable
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        os.lseek(file, 0, os.SEEK_SET)
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a network drive without locks: nothing can be known
        return True
    return True


def _holder(path: Path) -> str:
    try:
        number = one_line(path.read_text(encoding="ascii"), 20)
    except (OSError, UnicodeDecodeError):
        return ""
    return f" (process {number} on this computer)" if number.isdecimal() else ""
