"""Giving a finished file its name, without ever taking the place of another file.

A file is written under a hidden name beside the one it gets. Whoever comes second to a name is told so, also when two
programs on two machines finish in the same moment.
"""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

PART = ".part"
# A part that nobody has written to for so long was left by a program that was killed.
_OLD = 3600  # seconds
_NAMED = 40  # letters of the name in the part's name, which has to fit into the system's 255 bytes too
_PART_NAME = re.compile(r"\..+\.[0-9a-f]{8}\.part", re.DOTALL)


def part_of(path: Path) -> Path:
    """A hidden name beside `path` that no other program uses."""
    return path.with_name(f".{path.name[:_NAMED]}.{secrets.token_hex(4)}{PART}")


def publish(part: Path, path: Path, overwrite: bool = False) -> None:
    """Give a finished file its name.

    Raises:
        FileExistsError: the name is taken, and `overwrite` is false.
        OSError: the system refuses.
    """
    if overwrite:
        os.replace(part, path)
        return
    try:
        os.link(part, path)  # the one step that the systems offer which fails where the name is taken
    except FileExistsError:
        raise
    except OSError:
        _publish_without_links(part, path)
        return
    part.unlink(missing_ok=True)


def sweep(folder: Path, pattern: str = "") -> None:
    """Remove old parts in a folder.

    Args:
        pattern: "**/" for the folders in it as well.
    """
    try:
        found = [path for path in folder.glob(f"{pattern}.*{PART}") if _PART_NAME.fullmatch(path.name)]
        if not found:
            return
        now = _clock_of(folder)
        for path in found:
            if now - path.stat().st_mtime > _OLD:
                path.unlink()
    except OSError:  # somebody else sweeps too, or may not write here; saving says what is wrong if it matters
        return


def _publish_without_links(part: Path, path: Path) -> None:
    """For file systems that know no links, as those of memory cards: the name is made first, which fails where it is
    taken, and then the file takes its own empty place."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        os.replace(part, path)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _clock_of(folder: Path) -> float:
    """The time by the clock that dates the files of this folder, which may be another machine's."""
    probe = part_of(folder / "clock")
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)
