"""The list of photos that the steps of data synthesis hand on: JSON Lines, one object for a photo.

    {"key": "0001eeaf4aed83f9-dog", "image": "train/0001eeaf4aed83f9.jpg", "category": "dog",
     "box": [0.1, 0.2, 0.9, 0.8], "captions": ["a dog on the grass"]}

Paths are relative to the list's folder, with `/`.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ...errors import SubjectError, one_line, shown
from ...files import write_whole

_KEY = re.compile(r"[A-Za-z0-9_-]{1,200}")
_REQUIRED = ("key", "image", "category")


@dataclass(frozen=True)
class Photo:
    """One subject in one photo.

    Attributes:
        key: name of the sample in the shards; letters, digits, `-` and `_`, since a dot ends a sample's name there.
        image: path, relative to the list's folder.
        category: what the subject is, "dog".
        box: left, top, right, bottom of the subject as shares (0..1) of width and height; empty is the whole photo.
        mask: path of a greyscale picture of the photo's proportions, white on the subject; spares the segmenter.
        captions: what the photo shows, best one first.
    """

    key: str
    image: str
    category: str
    box: tuple[float, ...] = ()
    mask: str = ""
    captions: tuple[str, ...] = ()

    def __post_init__(self):
        for name in (*_REQUIRED, "mask"):
            value = getattr(self, name)
            if not isinstance(value, str) or not (value.strip() or name == "mask"):
                raise SubjectError(f"{name} = {shown(value)} should be a text.")
        if not _KEY.fullmatch(self.key):
            raise SubjectError(f"key = {self.key!r} may hold letters, digits, '-' and '_' only, at most 200.")
        if self.box:
            _check_box(self.box)
        if not all(isinstance(caption, str) and caption.strip() for caption in self.captions):
            raise SubjectError(f"captions = {shown(self.captions)} should be a list of texts.")


def _check_box(box: tuple[float, ...]) -> None:
    numbers = len(box) == 4 and all(isinstance(side, (int, float)) and math.isfinite(side) for side in box)
    if not numbers or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
        raise SubjectError(
            f"box = {shown(list(box))} should be left, top, right, bottom from 0 to 1, with left < right, top < bottom."
        )


def parse_photo(record: object) -> Photo:
    """A line's object as `Photo`.

    Raises:
        SubjectError: what is missing, unknown or of another type.
    """
    if not isinstance(record, dict):
        raise SubjectError(f"should be an object with {', '.join(_REQUIRED)}, but is {type(record).__name__}.")
    if missing := [name for name in _REQUIRED if name not in record]:
        raise SubjectError(f"has no {' and no '.join(missing)}.")
    if unknown := set(record) - {field.name for field in fields(Photo)}:
        raise SubjectError(f"has {', '.join(sorted(map(repr, unknown)))}, which is unknown.")
    for name in ("box", "captions"):
        if not isinstance(record.get(name, []), list):
            raise SubjectError(f"{name} = {shown(record[name])} should be a list.")
    lists = {name: tuple(record[name]) for name in ("box", "captions") if name in record}
    values: dict[str, Any] = record | lists  # a `Photo` refuses values of other types
    return Photo(**values)


def read_photos(path: Path) -> Iterator[Photo]:
    """The photos of a list, read as they are asked for.

    Raises:
        SubjectError: no such file, a wrong line (with its number), a key that was there before.
    """
    seen: set[str] = set()
    try:
        with open(path, encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                photo = _parse_line(path, number, line)
                if photo.key in seen:
                    raise SubjectError(f"{path}, line {number}: the key {photo.key!r} was there before.")
                seen.add(photo.key)
                yield photo
    except (OSError, UnicodeDecodeError) as error:
        raise SubjectError(f"The list of photos {path} cannot be read: {error}.") from error


def _parse_line(path: Path, number: int, line: str) -> Photo:
    try:
        return parse_photo(json.loads(line))
    except SubjectError as error:
        raise SubjectError(f"{path}, line {number}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise SubjectError(f"{path}, line {number} is no JSON: {one_line(error)}.") from error


def write_photos(path: Path, photos: Iterable[Photo]) -> None:
    """Write a list; only what differs from the defaults is named."""
    lines = (f"{json.dumps(_record(photo), ensure_ascii=False)}\n" for photo in photos)
    write_whole(path, "".join(lines).encode())


def _record(photo: Photo) -> dict:
    values = {field.name: getattr(photo, field.name) for field in fields(photo)}
    return {name: value for name, value in values.items() if value}


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
