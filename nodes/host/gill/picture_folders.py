"""Folders of pictures in the host's input folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import folder_paths

from ....blipdiff_impl.errors import SubjectError, excerpt, first_few
from ....blipdiff_impl.files import PICTURE_TYPES

NO_FOLDER = "(no other folder in input)"
_DEPTH = 3


def folder_names() -> list[str]:
    """Folders in the input folder, down to the third level, and a word for where there is none."""
    found = list(_folders(folder_paths.get_input_directory(), "", _DEPTH))
    return [*sorted(found, key=str.lower), NO_FOLDER]


def state_of(folder: str) -> str:
    """A text that changes when a picture in the folder does."""
    return repr(list(pictures_in(chosen_folder(folder))))


def chosen_folder(name: str) -> Path:
    """A folder of the list; nothing outside of the input folder."""
    names = folder_names()
    if name not in names or name == NO_FOLDER:
        there = first_few(each for each in names if each != NO_FOLDER) or "none"
        raise SubjectError(
            f"There is no folder {excerpt(str(name))} in {folder_paths.get_input_directory()} (folders there: {there})."
            " Put your pictures into a folder there, and refresh the list."
        )
    return Path(folder_paths.get_input_directory()) / name


def _folders(folder: str, prefix: str, depth: int) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            inner = [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    except OSError:
        return
    for entry in inner:
        yield f"{prefix}{entry.name}"
        if depth > 1:
            yield from _folders(entry.path, f"{prefix}{entry.name}/", depth - 1)


def pictures_in(root: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Names of picture files in a folder and below, sorted, with size and time of change."""
    for folder, inner, names in os.walk(root):
        inner[:] = sorted(each for each in inner if not each.startswith("."))
        for name in sorted(names):
            path = Path(folder) / name
            if path.suffix.lower() in PICTURE_TYPES and not name.startswith("."):
                try:
                    about = path.stat()
                except OSError:
                    continue
                yield path.relative_to(root).as_posix(), (about.st_size, about.st_mtime_ns)
