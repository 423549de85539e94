"""Which column of a CONDITIONING is which word or vector: said by whoever encodes it, read by the attention maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...blipdiff_impl.attention.maps import PromptColumns, label_columns
from ...blipdiff_impl.prompts.rows import Token, find_tokens
from ...blipdiff_impl.prompts.tokenizers import CLIP_END, CLIP_START

if TYPE_CHECKING:
    from comfy.sd import CLIP

COLUMNS_KEY = "blipdiffusion_columns"

Rows = list[list[Token]]


def tagged(
    conditioning: list[list], pieces: list[str | None], subjects: tuple[tuple[str, tuple[int, ...]], ...]
) -> list[list]:
    """The conditioning with a note of what its columns are.

    Args:
        pieces: for each column the text encoder's piece of a word, or None.
        subjects: category and columns of the vectors of each subject.
    """
    columns = PromptColumns(len(pieces), label_columns(pieces), subjects)
    return [[cond, {**options, COLUMNS_KEY: columns}] for cond, options in conditioning]


def word_pieces(clip: CLIP, rows: Rows) -> list[str | None]:
    """The piece in each position of the rows, side by side; None for start, end, padding and vectors."""
    return [_piece(clip, item) for row in rows for item, *_ in row]


def vector_columns(rows: Rows, vectors: Tensor) -> tuple[int, ...]:
    """Where `vectors` `[16, W]` stand in the rows, side by side. Embeddings of the user are vectors too, so it takes a
    look at the values."""
    items = [item for row in rows for item, *_ in row]
    start = next(find_tokens(items, list(vectors), same=_same_vector), None)
    return () if start is None else tuple(range(start, start + len(vectors)))


def _same_vector(one: int | Tensor, other: int | Tensor) -> bool:
    return isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other)


def _piece(clip: CLIP, item: int | Tensor) -> str | None:
    if isinstance(item, Tensor) or item in (CLIP_START, CLIP_END):
        return None
    return clip.tokenizer.untokenize([(item, 1.0)])[0][1]
