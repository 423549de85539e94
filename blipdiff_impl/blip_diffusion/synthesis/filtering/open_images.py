"""The tables of OpenImages V4 to V7: classes and boxes.

Boxes are a CSV with the header `ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,
IsGroupOf,IsDepiction,IsInside`, and eight columns of clicks in the training part of V6; columns are found by their
names. Sides are shares of width and height; flags are 1 present, 0 not present, -1 unknown. The training part has 14.6
million rows, so they are read one at a time.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ....errors import SubjectError

COLUMNS = ("ImageID", "LabelName", "XMin", "YMin", "XMax", "YMax", "IsGroupOf", "IsInside")

_IMAGE = re.compile(r"[A-Za-z0-9_-]{1,64}")  # it becomes the name of a file
_FLAGS = (-1, 0, 1)


class Box(NamedTuple):
    """One annotated object.

    Attributes:
        image: id of the picture, `IMAGE.jpg`.
        category: display name in lower case, "dog".
        left, top, right, bottom: shares of width and height, 0..1.
        group: whether the box is around several objects of the class: 1, 0, or -1 for unknown.
        inside: whether the picture was taken from inside the object, likewise.
    """

    image: str
    category: str
    left: float
    top: float
    right: float
    bottom: float
    group: int
    inside: int


class BrokenRow(NamedTuple):
    """A row that holds no box: where it is, and why."""

    place: str
    reason: str


def read_classes(path: Path) -> dict[str, str]:
    """Class id ("/m/0bt9lr") to category ("dog"), from a table with or without a header row.

    Raises:
        SubjectError: no such file, a row without two fields, no class at all.
    """
    classes: dict[str, str] = {}
    label, name = 0, 1
    for number, row in _rows(path):
        if len(row) < 2 or not (row[0].strip() and row[1].strip()):
            raise SubjectError(f"{path}, line {number}: {row} should be a class id and its name.")
        if number == 1 and not row[0].startswith("/"):
            columns = {column.strip(): index for index, column in enumerate(row)}
            label, name = columns.get("LabelName", 0), columns.get("DisplayName", 1)
            continue
        classes[row[label].strip()] = " ".join(row[name].lower().split())
    if not classes:
        raise SubjectError(f"{path} holds no class. It should be class-descriptions-boxable.csv of OpenImages.")
    return classes


def read_boxes(path: Path, classes: dict[str, str]) -> Iterator[Box | BrokenRow]:
    """The rows of a file of boxes, read as they are asked for.

    Raises:
        SubjectError: no such file, no text, a needed column is missing (with its name).
    """
    rows = _rows(path)
    _, header = next(rows, (0, []))
    header = [column.strip() for column in header]
    if missing := [column for column in COLUMNS if column not in header]:
        raise SubjectError(
            f"{path} lacks {', '.join(missing)}. It should be a file of boxes of OpenImages, such as "
            "oidv6-train-annotations-bbox.csv, with its header row."
        )
    places = [header.index(column) for column in COLUMNS]
    for number, row in rows:
        try:
            yield _parse(row, places, classes)
        except ValueError as error:
            yield BrokenRow(f"{path.name}, line {number}", str(error))
        except IndexError:
            yield BrokenRow(f"{path.name}, line {number}", f"has {len(row)} of {len(header)} fields")


def _parse(row: list[str], places: list[int], classes: dict[str, str]) -> Box:
    image, label, *numbers = (row[place] for place in places)
    if not _IMAGE.fullmatch(image):
        raise ValueError(f"{image[:80]!r} is no id of an image")
    if label not in classes:
        raise ValueError(f"the class {label[:80]!r} is unknown")
    left, top, right, bottom, group, inside = map(float, numbers)
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):  # also for NaN
        raise ValueError(f"{left:g}, {top:g}, {right:g}, {bottom:g} is no box within 0..1")
    if group not in _FLAGS or inside not in _FLAGS:
        raise ValueError(f"IsGroupOf = {group:g}, IsInside = {inside:g} should be 0, 1 or -1")
    return Box(image, classes[label], left, top, right, bottom, int(group), int(inside))


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line, fields) of the rows that are not empty."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            for row in reader:
                if row:
                    yield reader.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SubjectError(f"{path} cannot be read as CSV: {error}. Unpack it, or get it again.") from error
