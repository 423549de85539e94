"""Which column of the source prompt belongs to which column of the target prompt (fact sheet 6.4 and 6.5).

Both prompts are compared as the text encoder reads them: the subject's vectors stand in the target where they stand in
its encoding, so no column is off. Vectors are symbols that match nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import SubjectError

ROW = 77  # positions of one row of the text encoder
NO_MATCH = -1


@dataclass(frozen=True, eq=False)
class Alignment:
    """For each column of the target.

    Attributes:
        mapper: int64 `[T]`, the column of the source, or `NO_MATCH`.
        matched: float32 `[T]`, 1 where the attention of the source is taken, 0 where the target keeps its own.
    """

    mapper: Tensor
    matched: Tensor


def align(source: Sequence[int], target: Sequence[int], end: int) -> Alignment:
    """Align two prompts of equally many rows.

    Args:
        source, target: a symbol for each position, rows of 77 one after the other: token ids, and anything unique and
            negative for vectors.
        end: the id that closes a row and pads it.

    Raises:
        SubjectError: prompts of different lengths.
    """
    if len(source) != len(target):
        raise SubjectError(f"Prompts of {len(source)} and {len(target)} positions cannot be aligned; pad the shorter.")
    mapper = list(range(len(target)))  # padding belongs to padding
    for place in _content(target, end):
        mapper[place] = NO_MATCH
    for ours, theirs in _matches(source, target, _content(source, end), _content(target, end)):
        mapper[theirs] = ours
    mapped = torch.tensor(mapper)
    return Alignment(mapped, (mapped != NO_MATCH).float())


def find_words(symbols: Sequence[int], words: Sequence[int], end: int) -> list[int]:
    """Columns of every place where the tokens `words` follow each other in `symbols`, also from one row to the next;
    empty where they do not. `end` as in `align`."""
    text = [place for place in _content(symbols, end) if place % ROW and symbols[place] != end]
    found: set[int] = set()
    for first in range(len(text) - len(words) + 1) if words else ():
        places = text[first : first + len(words)]
        if [symbols[place] for place in places] == list(words):
            found.update(places)
    return sorted(found)


def _content(symbols: Sequence[int], end: int) -> list[int]:
    """Positions up to and including the end token of each row; what follows it is padding."""
    places = []
    for start in range(0, len(symbols), ROW):
        row = list(symbols[start : start + ROW])
        # A start token opens the row, so the end is never the first.
        last = row.index(end) if end in row else len(row) - 1
        places += range(start, start + last + 1)
    return places


def _matches(source: Sequence[int], target: Sequence[int], ours: list[int], theirs: list[int]) -> list[tuple[int, int]]:
    """Pairs of equal symbols in the best global alignment (Needleman and Wunsch: match 1, mismatch -1, gap 0).

    With gaps for free a mismatch never pays, so the score is the number of pairs. Of equally good alignments the one
    is taken that, read from the end, leaves target symbols alone first and source symbols second.
    """
    best = [[0] * (len(theirs) + 1) for _ in range(len(ours) + 1)]
    for i, ours_at in enumerate(ours, 1):
        for j, theirs_at in enumerate(theirs, 1):
            paired = best[i - 1][j - 1] + (1 if source[ours_at] == target[theirs_at] else -1)
            best[i][j] = max(best[i][j - 1], best[i - 1][j], paired)
    pairs, i, j = [], len(ours), len(theirs)
    while i and j:
        if best[i][j] == best[i][j - 1]:
            j -= 1
        elif best[i][j] == best[i - 1][j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            pairs.append((ours[i], theirs[j]))
    return pairs
