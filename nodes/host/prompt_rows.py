"""A prompt as rows of the host's tokens: taken apart, put together again, and encoded ones joined in a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ...blipdiff_impl.errors import SubjectError
from ...blipdiff_impl.prompts.rows import Token

if TYPE_CHECKING:
    from comfy.sd import CLIP

Conditioning = list[list]  # the host's: [[embeddings [B, T, W], options], ...], one entry per scheduled hook
Rows = list[list[Token]]


def framed(clip: CLIP, rows: Rows) -> Rows:
    """Rows of at most 75 positions with start, end and padding, as the host encodes them."""
    empty = clip.tokenize("")["l"][0]  # start, end, padding
    return [[empty[0], *row, *empty[1 : len(empty) - len(row)]] for row in rows]


def content(clip: CLIP, text: str) -> list[Token]:
    """Tokens of a text without start, end and padding; the host numbers those 0 and words from 1."""
    rows = clip.tokenize(text, return_word_ids=True)["l"]
    return [(item, weight) for row in rows for item, weight, word in row if word != 0]


def lengthen(clip: CLIP, rows: Rows, count: int) -> Rows:
    """Rows followed by empty ones, `count` in all."""
    return rows + clip.tokenize("")["l"] * (count - len(rows))


def batched(items: list[Conditioning]) -> Conditioning:
    """Several encodings of equal length as one: `[1, T, W]` each to `[N, T, W]`; options are those of the first."""
    return [[torch.cat([cond for cond, _ in entry]), entry[0][1]] for entry in zip(*items, strict=True)]


def require_stable_diffusion(clip: CLIP, cure: str = "Subjects need the CLIP of a Stable Diffusion 1.5 model.") -> None:
    """Refuse a CLIP of another kind than that of Stable Diffusion 1.5.

    Args:
        cure: what is needed instead, a sentence.

    Raises:
        SubjectError: names the text encoders that it has.
    """
    kinds = sorted(clip.tokenize("").keys())
    if kinds != ["l"]:
        found = f"the text encoder{'s' if len(kinds) > 1 else ''} {' and '.join(map(repr, kinds))}"
        raise SubjectError(
            f"This CLIP is not one of Stable Diffusion 1.5: it has {found} where 'l' alone is due (SDXL and later have "
            f"several, Stable Diffusion 2 another one). {cure}"
        )
