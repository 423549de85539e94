"""From scores of pictures to numbers of the tables: pooled over all pairs, spread over runs (docs/method.md 10.2)."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from .scoring import SubjectScores

METRICS = ("dino", "clip_i", "clip_t", "aesthetic")
_PAIRED = ("dino", "clip_i")


@dataclass(frozen=True)
class Row:
    """Mean scores of one subject, one run, or several.

    Attributes:
        values: by metric; metrics that nothing was measured of are missing.
        weights: how many pairs (DINO, CLIP-I) or pictures (CLIP-T, aesthetic) each value is the mean of.
    """

    values: dict[str, float]
    weights: dict[str, int]


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over runs; a single run has no deviation."""

    mean: float
    deviation: float | None


def subject_row(scores: SubjectScores) -> Row:
    """One subject's means in one run."""
    pictures = list(scores.pictures.values())
    names = [name for name in METRICS if pictures and name in pictures[0]]
    values = {name: statistics.fmean(picture[name] for picture in pictures) for name in names}
    weights = {name: len(pictures) * (scores.photos if name in _PAIRED else 1) for name in names}
    return Row(values, weights)


def pooled(rows: Iterable[Row]) -> Row:
    """The mean over all pairs or pictures of several rows: those made of more weigh more, as in the paper."""
    rows = list(rows)
    weights = {name: sum(row.weights.get(name, 0) for row in rows) for name in METRICS}
    weights = {name: weight for name, weight in weights.items() if weight}
    values = {
        name: sum(row.values[name] * row.weights[name] for row in rows if name in row.values) / weight
        for name, weight in weights.items()
    }
    return Row(values, weights)


def plain_mean(rows: Iterable[Row]) -> dict[str, float]:
    """The mean over subjects, each counting alike."""
    rows = list(rows)
    columns = {name: [row.values[name] for row in rows if name in row.values] for name in METRICS}
    return {name: statistics.fmean(column) for name, column in columns.items() if column}


def over_runs(rows: Iterable[Row]) -> dict[str, Spread]:
    """Mean and deviation of each metric over runs."""
    rows = list(rows)
    columns = {name: [row.values[name] for row in rows if name in row.values] for name in METRICS}
    return {
        name: Spread(statistics.fmean(column), statistics.stdev(column) if len(column) > 1 else None)
        for name, column in columns.items()
        if column
    }
