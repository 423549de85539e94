"""What is done of a list of captions: a line with the settings, then a line for each photo, in the list's order.

A run resumes after the last whole batch, so that the photos of a batch, and with them the last bits of what the
networks compute, are those of a run that was never killed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from ....errors import SubjectError
from ....settings import differing


class UnfinishedCaptions:
    """The file.

    Attributes:
        done: photos that are done.

    Args:
        path: made where missing; a line that was cut off and batches that are not whole are taken away.
        settings: those of a file that is there must be the same.
        total: photos of the list; only its last batch may be smaller.

    Raises:
        SubjectError: it is something else, was begun with other settings, or cannot be written.
    """

    def __init__(self, path: Path, settings: dict, batch: int, total: int):
        self.path, self.done = path, 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if ends := _line_ends(path):
                self._go_on(ends, settings, batch, total)
            else:
                path.write_text(json.dumps(settings) + "\n", encoding="utf-8")
        except OSError as error:
            raise SubjectError(f"{path} cannot be written: {error.strerror or error}. Choose another --out.") from error

    def add(self, records: list[dict]) -> None:
        """Append a batch."""
        try:
            with open(self.path, "ab") as file:
                file.write("".join(json.dumps(record) + "\n" for record in records).encode())
        except OSError as error:
            raise SubjectError(f"{self.path} cannot be written: {error.strerror or error}. Make room there.") from error
        self.done += len(records)

    def records(self) -> Iterator[dict]:
        """What is done, in the list's order.

        Raises:
            SubjectError: a line was damaged.
        """
        with open(self.path, encoding="utf-8") as lines:
            for number, line in enumerate(islice(lines, 1, None), 2):
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise SubjectError(f"{self.path}, line {number} is damaged: {error}. Delete the file.") from error

    def _go_on(self, ends: list[int], settings: dict, batch: int, total: int) -> None:
        with open(self.path, "r+b") as file:
            self._require_same(file.readline(), settings)
            done = min(len(ends) - 1, total)
            self.done = done if done == total else done - done % batch
            file.truncate(ends[self.done])

    def _require_same(self, line: bytes, settings: dict) -> None:
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise SubjectError(f"{self.path} is no unfinished list of captions. Remove it, or choose another --out.")
        if other := differing(found, settings):
            raise SubjectError(
                f"{self.path} was begun with another value of {', '.join(other)}: "
                f"{found.get(other[0])!r}, not {settings[other[0]]!r}. Resume with the same, or delete it."
            )


def _line_ends(path: Path) -> list[int]:
    """Positions behind the line feeds of a file; none where there is no file."""
    ends: list[int] = []
    if not path.exists():
        return ends
    position = 0
    with open(path, "rb") as file:
        for line in file:
            position += len(line)
            if line.endswith(b"\n"):
                ends.append(position)
    return ends
