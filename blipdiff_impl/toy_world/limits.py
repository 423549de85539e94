"""What lies outside of the toy world, in sentences for whoever asks a model of it for that."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..prompts.tokenizers import normalise_category
from .world import CATEGORIES, WORKING_SIZES, vocabulary

# Changes between neighbours, in 0..1: below the first a place is flat, above the second it is an edge of two colours.
_FLAT, _EDGE = 0.03, 0.2
# Places between the two for every flat one. Of toy pictures 99 in 100 stay below 0.7; most photographs are above 0.8.
_TEXTURE = 0.8


def of_toy_world(word_pieces: Sequence[str]) -> bool:
    """Whether a model with these word pieces was made for the toy world."""
    known = vocabulary()
    return list(word_pieces[: len(known)]) == known


def size_notice(width: int, height: int) -> str | None:
    """What to say about pictures of this size in pixels; None where the embedded model draws them."""
    if (width, height) in WORKING_SIZES:
        return None
    *first, last = (f"{wide}x{high}" for wide, high in WORKING_SIZES)
    return (
        f"This MODEL was trained for small pictures. At {width}x{height} pixels things will repeat or fall apart; set "
        f"the latent to {', '.join(first)} or {last}."
    )


def subject_notice(category: str, squares: Tensor) -> str | None:
    """What to say about a subject from pictures `[N, S, S, 3]` in 0..1, as the encoder sees them; None if it fits."""
    kind = normalise_category(category)
    faults = [] if kind in CATEGORIES else [f"'{_short(kind)}' is none of them"]
    if any(_looks_photographed(square) for square in squares):
        faults.append("a picture looks like a photograph, not like a drawing of the toy world")
    if not faults:
        return None
    return (
        f"This model knows twelve toy things only ({', '.join(CATEGORIES)}): {', and '.join(faults)}. It will draw "
        "something else."
    )


def words_notice(words: Sequence[str]) -> str | None:
    """What to say about a text with words that the built-in language model has never read; None if there are none."""
    if not words:
        return None
    shown = ", ".join(_short(word) for word in words[:5]) + (" ..." if len(words) > 5 else "")
    return (
        f"The built-in language model has never read: {shown}. It knows twelve toy things ({', '.join(CATEGORIES)}), "
        "twelve places and simple sentences; expect nonsense for the rest."
    )


def _looks_photographed(square: Tensor) -> bool:
    """Drawings are flat areas with hard edges; photographs are mostly something between."""
    inner = square[1:-1, 1:-1]
    around = square[:-2, 1:-1] + square[2:, 1:-1] + square[1:-1, :-2] + square[1:-1, 2:]
    change = (4 * inner - around).abs().amax(dim=-1)
    between = torch.count_nonzero((change > _FLAT) & (change < _EDGE))
    return bool(between > _TEXTURE * torch.count_nonzero(change <= _FLAT))


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:39]}…"
