"""Which column of a CONDITIONING is which word or vector: said by whoever encodes it, read by the attention maps."""

from __future__ import annotations

import torch
from torch import Tensor

from ...blipdiff_impl.attention_maps import PromptColumns, label_columns
from ...blipdiff_impl.prompt import Token
from ...blipdiff_impl.tokenizers import CLIP_END, CLIP_START

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


def word_pieces(clip, rows: Rows) -> list[str | None]:
    """The piece in each position of the rows, side by side; None for start, end, padding and vectors."""
    return [_piece(clip, item) for row in rows for item, *_ in row]


def vector_columns(rows: Rows, vectors: Tensor) -> tuple[int, ...]:
    """Where `vectors` `[16, W]` stand in the rows, side by side. Embeddings of the user are vectors too, so it takes a
    look at the values."""
    items = [item for row in rows for item, *_ in row]
    for start in range(len(items) - len(vectors) + 1):
        window = items[start : start + len(vectors)]
        if all(isinstance(item, Tensor) and torch.equal(item, v) for item, v in zip(window, vectors, strict=True)):
            return tuple(range(start, start + len(vectors)))
    return ()


def _piece(clip, item: int | Tensor) -> str | None:
    if isinstance(item, Tensor) or item in (CLIP_START, CLIP_END):
        return None
    return clip.tokenizer.untokenize([(item, 1.0)])[0][1]
