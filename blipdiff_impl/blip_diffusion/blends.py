"""A strip, a grid or one blend of subjects, from what an artist fills in, with a label for each place (paper Figure 9).

How vectors are mixed is told in `interpolation`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import SubjectError
from .interpolation import interpolate, interpolate_grid, interpolate_strip, steps
from .subject import Subject

LARGEST_BATCH = 256


@dataclass(frozen=True)
class Blend:
    """A SUBJECT batch, and for each item what it is made of, such as "A 75 B 25" (percent)."""

    subject: Subject
    labels: tuple[str, ...]


def blend(
    subjects: Sequence[Subject],
    mode: str = "lerp",
    columns: int = 5,
    rows: int = 5,
    weights: str = "",
    first: float = 0.0,
    last: float = 1.0,
) -> Blend:
    """Two subjects make a strip, four a grid, row by row; weights make one blend of them instead.

    Args:
        subjects: two to four single subjects of one encoder; they are called A, B, C, D in the labels.
        mode: "lerp" or "slerp".
        columns, rows: size of the grid; a strip has only columns.
        weights: numbers separated by commas or spaces, one for each subject; divided by their sum. Empty: none.
        first, last: where strip and grid begin and end; 0 and 1 are the subjects themselves.

    Raises:
        SubjectError: subjects that do not match, weights that are no numbers, too few, too many or sum to zero, three
            subjects without weights, or a grid of more than 256 places.
    """
    if weights.strip():
        return _weighted(subjects, _numbers(weights), mode)
    if len(subjects) == 3:
        raise SubjectError(
            "Three subjects make neither a strip nor a grid. Write three weights, such as '1, 1, 1', or connect two or "
            "four subjects."
        )
    _require_range(first, last)
    if len(subjects) == 4:
        return _grid(subjects, mode, rows, columns, first, last)
    return _strip(subjects, mode, columns, first, last)


def _weighted(subjects: Sequence[Subject], weights: list[float], mode: str) -> Blend:
    blended = interpolate(subjects, weights, mode)
    return Blend(blended, (_label([weight / sum(weights) for weight in weights]),))


def _strip(subjects: Sequence[Subject], mode: str, columns: int, first: float, last: float) -> Blend:
    _require_size(1, columns)
    strip = interpolate_strip(*subjects, columns, mode, first, last)
    return Blend(strip, tuple(_label([1 - x, x]) for x in steps(columns, "columns", first, last)))


def _grid(subjects: Sequence[Subject], mode: str, rows: int, columns: int, first: float, last: float) -> Blend:
    _require_size(rows, columns)
    grid = interpolate_grid(*subjects, rows, columns, mode, first, last)
    labels = (
        _label([(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y])
        for y in steps(rows, "rows", first, last)
        for x in steps(columns, "columns", first, last)
    )
    return Blend(grid, tuple(labels))


def _label(shares: Sequence[float]) -> str:
    """Percents of those that take part."""
    percents = [(name, round(100 * share)) for name, share in zip("ABCD", shares, strict=False)]
    return " ".join(name if percent == 100 else f"{name} {percent}" for name, percent in percents if percent)


def _numbers(text: str) -> list[float]:
    parts = [part for part in re.split(r"[,;\s]+", text) if part]
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = [math.nan]
    if not numbers or not all(map(math.isfinite, numbers)):
        raise SubjectError(f"weights = {text[:80]!r} are not numbers. Write one for each subject: 0.7, 0.3")
    return numbers


def _require_range(first: float, last: float) -> None:
    if not (math.isfinite(first) and math.isfinite(last)) or first == last:
        raise SubjectError(
            f"A blend cannot go from {first:g} to {last:g}. Give two different numbers, such as 0 and 1."
        )


def _require_size(rows: int, columns: int) -> None:
    if rows * columns > LARGEST_BATCH:
        raise SubjectError(
            f"{rows} x {columns} = {rows * columns} places are too many for one batch; at most {LARGEST_BATCH} can be "
            "made at once. Lower columns or rows."
        )
