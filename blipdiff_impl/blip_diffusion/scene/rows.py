"""Rows of 77 positions with several subjects in them, and which columns of the text encoder's output are whose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ...errors import SubjectError
from ...prompts.rows import ROW, ROW_POSITIONS, Token, find_tokens


@dataclass(frozen=True)
class Layout:
    """A prompt with several subjects as chunks of tokens, and where each subject stands.

    Attributes:
        rows: at most 75 positions each, without start and end.
        spans: first column and the one past the last of each subject, vectors and word, in the encoded chunks side by
            side.
    """

    rows: list[list[Token]]
    spans: list[tuple[int, int]]


def lay_out(
    tokens: list[Token],
    sentinel_ids: Sequence[int | Tensor],
    subjects: Sequence[Tensor | None],
    words: Sequence[Sequence[int | Tensor]],
) -> Layout:
    """Put each subject where its word stands in the text and break the text into rows, never inside a subject.

    Args:
        tokens: of the whole text, without start, end or padding.
        sentinel_ids: what the same tokenizer makes of the sentinel alone, which stands before every subject's word.
        subjects: `[16, W]` for each marker in the order of the text; None leaves the word alone.
        words: the ids of each marker's category word.

    Raises:
        SubjectError: a subject's place is not found in the tokens, or its word is too long for a row.
    """
    rows: list[list[Token]] = [[]]
    items = [item for item, _ in tokens]
    spans, place = [], 0
    for vectors, word in zip(subjects, words, strict=True):
        sought = [*sentinel_ids, *word]
        start = next(find_tokens(items, sought, place), None)
        if start is None:
            raise SubjectError(
                "A subject's place was lost when the prompt became tokens. Keep markers out of `embedding:` names and "
                "put spaces around them."
            )
        _append(rows, [[token] for token in tokens[place:start]])
        place = start + len(sought)
        block = tokens[place - len(word) : place]
        if vectors is not None:
            block = [(vector, tokens[start][1]) for vector in vectors] + block
        if len(block) > ROW_POSITIONS:
            raise SubjectError(
                f"A subject and its category take {len(block)} positions, a chunk has {ROW_POSITIONS}. Name the "
                "category in a word or two."
            )
        _append(rows, [block])
        end = ROW * (len(rows) - 1) + 1 + len(rows[-1])
        spans.append((end - len(block), end))
    _append(rows, [[token] for token in tokens[place:]])
    return Layout(rows, spans)


def _append(rows: list[list[Token]], units: list[list[Token]]) -> None:
    """Add units that must not be cut, each to the last row or to a new one."""
    for unit in units:
        if len(rows[-1]) + len(unit) > ROW_POSITIONS:
            rows.append([])
        rows[-1] += unit
