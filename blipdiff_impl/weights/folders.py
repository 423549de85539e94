"""Finding files in a checkpoint's folder, and saying what was looked for and what is there."""

from __future__ import annotations

from pathlib import Path

from ..errors import CheckpointError, first_few, shown
from ..untrusted import MOST_JSON, parse_json


def exists(path: Path) -> bool:
    """Whether there is something at a path.

    Raises:
        CheckpointError: a folder on the way may not be entered, or the path can be none.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError as error:
        raise CheckpointError(f"{path} cannot be reached: permission denied on a folder above it.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no name of a file can hold that"
        raise CheckpointError(f"{str(path)[:200]!r} cannot be a path: {reason}.") from error
    return True


def entries(folder: Path) -> list[str]:
    """Names in a folder, folders with a slash; empty where there is no such folder.

    Raises:
        CheckpointError: the folder may not be read.
    """
    try:
        return sorted(f"{path.name}/" if path.is_dir() else path.name for path in folder.iterdir())
    except FileNotFoundError:
        return []
    except PermissionError as error:
        raise CheckpointError(
            f"The folder {folder} cannot be read: permission denied. Allow reading it and try again."
        ) from error
    except NotADirectoryError as error:
        raise CheckpointError(f"{folder} should be a folder, but it is a file.") from error


def first_existing(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The first of the names that lies in the folder."""
    there = set(entries(folder))
    return next((folder / name for name in names if name in there), None)


def what_was_found(folder: Path, names: tuple[str, ...]) -> str:
    """Which names were looked for, in which folder, and what lies there."""
    if not exists(folder):
        return f"Looked for {', '.join(names)} in {folder}, but there is no such folder."
    return f"Looked for {', '.join(names)} in {folder}. Found there: {listing(folder)}."


def listing(folder: Path) -> str:
    """The first names in a folder, for a sentence."""
    return first_few(entries(folder), 12) or "nothing"


def read_config(path: Path) -> dict:
    """A JSON object from a file.

    Raises:
        CheckpointError: the file is unreadable, far too large, or holds something else.
    """
    try:
        record = parse_json(_text(path))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error}). Download it again.") from error
    if not isinstance(record, dict):
        raise CheckpointError(f"{path} should hold a JSON object, but it holds {shown(record)}.")
    return record


def own_vocabulary(folder: Path) -> list[str] | None:
    """The word pieces in a folder's `vocab.txt`, one a line; None where there is no such file."""
    path = first_existing(folder, ("vocab.txt",))
    if path is None:
        return None
    try:
        return _text(path).removesuffix("\n").split("\n")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as a list of word pieces ({error}).") from error


def _text(path: Path) -> str:
    size = path.stat().st_size
    if size > MOST_JSON:
        raise ValueError(f"it has {size:,} bytes, far more than such a file needs")
    return path.read_text(encoding="utf-8")
