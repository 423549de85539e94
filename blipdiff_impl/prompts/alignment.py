"""Which column of the source prompt belongs to which column of the target prompt (docs/method.md 6.4 and 6.5).

Both prompts are compared as the text encoder reads them: the subject's vectors stand in the target where they stand in
its encoding, so no column is off. Vectors are symbols that match nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import SubjectError
from .rows import ROW, find_tokens

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
    """Align two prompts of equally many chunks.

    Args:
        source, target: a symbol for each position, chunks of 77 one after the other: token ids, and anything unique and
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
    found, covered = [], 0
    text, starts = _found(symbols, words, end)
    for start in starts:
        found += text[max(covered, start) : start + len(words)]
        covered = start + len(words)
    return found


def find_runs(symbols: Sequence[int], words: Sequence[int], end: int) -> Iterator[tuple[int, ...]]:
    """As `find_words`, each place by itself: its columns, in the order of the prompt; places may overlap."""
    text, starts = _found(symbols, words, end)
    for start in starts:
        yield tuple(text[start : start + len(words)])


def _found(symbols: Sequence[int], words: Sequence[int], end: int) -> tuple[list[int], Iterator[int]]:
    """The columns of the prompt's text, and how many of them lie before each place with the words."""
    text = [place for place in _content(symbols, end) if place % ROW and symbols[place] != end]
    return text, find_tokens([symbols[place] for place in text], words)


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

    A row of the table of scores is one integer, in which a bit is clear where the score grows by one from the column
    before it: all columns are computed at once (Hyyrö 2004, "Bit-parallel LCS-length computation revisited").
    """
    places: dict[int, int] = {}  # of each symbol in the target
    for column, place in enumerate(theirs):
        places[target[place]] = places.get(target[place], 0) | 1 << column
    everywhere = (1 << len(theirs)) - 1
    rows = [everywhere]
    for place in ours:
        equal = rows[-1] & places.get(source[place], 0)
        rows.append((rows[-1] + equal | rows[-1] - equal) & everywhere)
    pairs, i, j = [], len(ours), len(theirs)
    while i and j:
        if _grows(rows[i], j):
            # Higher than the column before. Where the row above is so too, it has as many pairs without this symbol.
            if _grows(rows[i - 1], j):
                i -= 1
            else:
                i, j = i - 1, j - 1
                pairs.append((ours[i], theirs[j]))
        else:
            j -= 1
    return pairs


def _grows(row: int, column: int) -> bool:
    """Whether the score of a row is higher with this many columns than with one less."""
    return not row >> column - 1 & 1
