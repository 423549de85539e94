"""Where files lie, seen from a list of photos: lists name them relative to their own folder."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from .photo_list import Photo


def place_in_list(file: Path, photo_list: Path) -> str:
    """The file's path relative to the list's folder, with `/`; absolute where they are on different drives."""
    file, folder = Path(os.path.abspath(file)), os.path.abspath(photo_list.parent)
    try:
        return Path(os.path.relpath(file, folder)).as_posix()
    except ValueError:
        return file.as_posix()


def moved(photo: Photo, old: Path, new: Path) -> Photo:
    """A photo of one list as it stands in another one, which may lie in another folder."""
    if os.path.abspath(old.parent) == os.path.abspath(new.parent):
        return photo
    image, mask = (place and place_in_list(old.parent / place, new) for place in (photo.image, photo.mask))
    return replace(photo, image=image, mask=mask)
