"""Blends of subjects, after the projection, as the paper mixes them (section 4.3, Figure 9; docs/method.md 4.3).

Linear blends are weighted sums of vectors. Spherical blends keep the vectors' lengths: each of the 16 is turned
towards its partner along the great circle, and its length goes linearly. Two subjects make a strip, four a grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import SubjectError
from ..settings import require_one_of
from .subject import Subject

MODES = ("lerp", "slerp")
# Radians. Nearer than this to parallel, chord and arc differ by 1e-5 and float32 cannot tell the angle any better.
_PARALLEL = 1e-2


def interpolate(subjects: Sequence[Subject], weights: Sequence[float], mode: str = "lerp") -> Subject:
    """One subject from several, `[1, 16, W]`.

    Args:
        subjects: two or more, each a single subject of the same encoder.
        weights: one per subject, any numbers whose sum is not zero; divided by their sum. Negative weights extrapolate.
        mode: "lerp" or "slerp". Spherical blends of more than two go pair by pair in the order given.

    Raises:
        SubjectError: subjects that do not match, weights that sum to zero, or another mode.
    """
    _require_alike(subjects)
    if len(weights) != len(subjects):
        raise SubjectError(f"There are {len(weights)} weights for {len(subjects)} subjects. Give one for each.")
    total = float(sum(weights))
    if not abs(total) > 1e-6:  # also true of NaN
        raise SubjectError(f"The weights {list(weights)} sum to {total:g}. Give at least one that counts.")
    shares = [float(weight) / total for weight in weights]
    vectors = _blend([subject.embeddings[0] for subject in subjects], shares, mode)
    names = " + ".join(f"{share:.2f} {s.category}" for share, s in zip(shares, subjects, strict=True))
    return _blended(vectors[None], subjects, names)


def interpolate_strip(
    a: Subject, b: Subject, count: int, mode: str = "lerp", first: float = 0.0, last: float = 1.0
) -> Subject:
    """`count` subjects from `a` towards `b`, as one batch.

    Args:
        first, last: shares of `b` at the ends; below 0 and above 1 extrapolate.

    Raises:
        SubjectError: subjects that do not match, fewer than two places, or another mode.
    """
    _require_alike([a, b])
    ends = [a.embeddings[0], b.embeddings[0]]
    vectors = torch.stack([_blend(ends, [1 - t, t], mode) for t in steps(count, "columns", first, last)])
    return _blended(vectors, [a, b], f"strip of {count}: {a.category} to {b.category}")


def interpolate_grid(
    a: Subject,
    b: Subject,
    c: Subject,
    d: Subject,
    rows: int,
    columns: int,
    mode: str = "lerp",
    first: float = 0.0,
    last: float = 1.0,
) -> Subject:
    """A bilinear grid as one batch, row by row: `a` left and `b` right on top, `c` left and `d` right at the bottom.

    Args:
        first, last: how far the first and last column have gone from left to right, and the rows from top to bottom;
            below 0 and above 1 extrapolate.

    Raises:
        SubjectError: subjects that do not match, fewer than two rows or columns, or another mode.
    """
    corners = [a, b, c, d]
    _require_alike(corners)
    top, bottom = ([left.embeddings[0], right.embeddings[0]] for left, right in ((a, b), (c, d)))
    across, down = steps(columns, "columns", first, last), steps(rows, "rows", first, last)
    vectors = []
    for y in down:
        for x in across:
            edges = [_blend(pair, [1 - x, x], mode) for pair in (top, bottom)]
            vectors.append(_blend(edges, [1 - y, y], mode))
    names = ", ".join(subject.category for subject in corners)
    return _blended(torch.stack(vectors), corners, f"grid of {rows} rows and {columns} columns: {names}")


def steps(count: int, name: str, first: float = 0.0, last: float = 1.0) -> list[float]:
    """`count` numbers from `first` to `last` at equal distances.

    Raises:
        SubjectError: fewer than two; the message calls the count `name`.
    """
    if count < 2:
        raise SubjectError(f"{name} = {count} is not possible; a blend needs at least 2.")
    return [first + (last - first) * index / (count - 1) for index in range(count)]


def _blend(vectors: list[Tensor], shares: list[float], mode: str) -> Tensor:
    """Vectors `[16, W]` mixed by shares that sum to 1."""
    require_one_of("mode", mode, MODES)
    if mode == "lerp":
        return sum(
            (share * vector for share, vector in zip(shares, vectors, strict=True)), torch.zeros_like(vectors[0])
        )
    result, done = vectors[0], shares[0]
    for vector, share in zip(vectors[1:], shares[1:], strict=True):
        if done + share:  # two shares that cancel out say nothing about the direction between them
            result = _slerp(result, vector, share / (done + share))
        done += share
    return result


def _slerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Row by row along the great circle from `a` to `b`; lengths go linearly (Shoemake 1985)."""
    long_a, long_b = (rows.norm(dim=-1, keepdim=True).clamp(min=1e-12) for rows in (a, b))
    unit_a, unit_b = a / long_a, b / long_b
    angle = torch.acos((unit_a * unit_b).sum(-1, keepdim=True).clamp(-1, 1))
    along = (torch.sin((1 - t) * angle) * unit_a + torch.sin(t * angle) * unit_b) / torch.sin(angle)
    length = (1 - t) * long_a + t * long_b
    # Parallel rows have no arc to follow, opposite ones no single arc: both take the straight line.
    arc = (angle > _PARALLEL) & (angle < torch.pi - _PARALLEL)
    return torch.where(arc, along * length, (1 - t) * a + t * b)


def _blended(vectors: Tensor, subjects: Sequence[Subject], source: str) -> Subject:
    first = subjects[0]
    return Subject(vectors, first.category, first.encoder_fingerprint, source)


def _require_alike(subjects: Sequence[Subject]) -> None:
    if len(subjects) < 2:
        raise SubjectError(f"{len(subjects)} subject cannot be blended. Connect at least two.")
    first = subjects[0]
    for number, subject in enumerate(subjects, start=1):
        if len(subject) != 1:
            raise SubjectError(f"Subject {number} is a batch of {len(subject)}. Blend single subjects.")
        if subject.encoder_fingerprint != first.encoder_fingerprint:
            raise SubjectError(
                f"Subject {number} ({subject.category}) was made by another encoder than subject 1 ({first.category}). "
                "Encode both with the same model."
            )
        if subject.embeddings.shape != first.embeddings.shape:
            raise SubjectError(
                f"Subject {number} holds vectors {list(subject.embeddings.shape[1:])}, subject 1 "
                f"{list(first.embeddings.shape[1:])}. Encode both with the same model."
            )
