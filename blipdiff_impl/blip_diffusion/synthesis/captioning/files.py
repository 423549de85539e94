"""Captions that someone has already: a CSV or JSON Lines file, and which of them belong to a photo.

    image,caption                                          {"key": "0001eeaf4aed83f9-dog", "captions": ["a dog", ...]}
    0001eeaf4aed83f9,a dog on the grass                    {"image": "0001eeaf4aed83f9.jpg", "caption": "a dog"}

A row names its photo by `key`, or by `image`: the path as the list of photos has it, the file's name, or the name
without its ending. Several rows of one photo add up, in their order.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ....errors import SubjectError, one_line
from ....files import digest_of, read_text
from ..photo_list import Photo

_NAMES = ("key", "image")


class CaptionFile:
    """Captions by photo.

    Attributes:
        fingerprint: SHA-256 of the file.

    Raises:
        SubjectError: no such file, another format, a row without photo or caption (with its line).
    """

    def __init__(self, path: Path):
        self._found: dict[tuple[str, str], list[str]] = {}
        read = _csv_rows if path.suffix.lower() == ".csv" else _json_rows
        try:
            for number, record in read(path):
                self._add(f"{path}, line {number}", record)
            self.fingerprint = digest_of(path)
        except (OSError, csv.Error) as error:
            raise SubjectError(f"The captions {path} cannot be read: {one_line(error)}.") from error
        if not self._found:
            raise SubjectError(f"{path} holds no caption.")

    def of(self, photo: Photo) -> list[str]:
        """A photo's captions, those for its key first; none where the file has none."""
        path = PurePosixPath(photo.image)
        image = next((name for name in (photo.image, path.name, path.stem) if ("image", name) in self._found), "")
        return self._found.get(("key", photo.key), []) + self._found.get(("image", image), [])

    def _add(self, place: str, record: object) -> None:
        if not isinstance(record, dict):
            raise SubjectError(f"{place} should be an object with key or image, and caption or captions.")
        given = [(name, record[name]) for name in _NAMES if record.get(name)]
        if len(given) != 1 or not isinstance(given[0][1], str):
            raise SubjectError(f"{place} should name its photo as a text, by `key` or by `image`.")
        captions = record.get("captions", [record.get("caption")])
        if not isinstance(captions, list) or not all(isinstance(text, str) and text.strip() for text in captions):
            raise SubjectError(f"{place} should have a `caption`, a text, or `captions`, a list of them.")
        self._found.setdefault(given[0], []).extend(captions)


def _json_rows(path: Path) -> Iterator[tuple[int, object]]:
    for number, line in enumerate(read_text(path, "The captions").split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise SubjectError(
                    f"{path}, line {number} is no JSON: {one_line(error)}. A table with commas should be called .csv."
                ) from error


def _csv_rows(path: Path) -> Iterator[tuple[int, object]]:
    reader = csv.DictReader(io.StringIO(read_text(path, "The captions"), newline=""))
    columns = reader.fieldnames or []
    if "caption" not in columns or not set(_NAMES) & set(columns):
        raise SubjectError(
            f"{path} cannot be read as captions: it should have a header row with `caption` and `key` or `image`."
        )
    for row in reader:
        if None in row:
            raise SubjectError(f"{path}, line {reader.line_num}: a caption with a comma goes into quotes.")
        yield reader.line_num, {name: row[name] for name in (*_NAMES, "caption") if row.get(name)}
