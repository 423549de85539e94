"""Training prompts as rows of the text encoder: token ids, and where the 16 subject vectors stand.

Covers what the nodes make of a prompt: the released template (repeated, vectors at index 2), the paper's template
(vectors at the end), plain text, and the empty prompt of classifier-free guidance (docs/method.md 3.3).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ..prompts.rows import ROW
from ..prompts.tokenizers import CLIP_END, CLIP_START, clip_ids
from .world import BACKGROUNDS, CATEGORIES, captions

VECTORS = 16
REPETITIONS = (1, 2, 3, 20)
UNKNOWN = -1
"""Stands for any word without a trained row; its embedding is zero."""

EMPTY_SHARE, DROP_SHARE, PAPER_SHARE, NOISE_SHARE = 0.10, 0.14, 0.2, 0.08


@lru_cache(maxsize=1)
def used_tokens() -> tuple[int, ...]:
    """CLIP ids that occur in prompts of the toy world."""
    phrases = [phrase for name in BACKGROUNDS for phrase in captions(name)]
    ids = {i for text in ("a , the is", *CATEGORIES, *phrases) for i in token_ids(text)}
    return tuple(sorted(ids | {CLIP_START, CLIP_END}))


def draw_row(category: str, background: str, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """One training prompt.

    Returns:
        ids int64 [77] (subject rows hold the end token) and the index of the first subject vector, or -1 for none.
    """
    if rng.uniform() < EMPTY_SHARE:
        return row("", None)
    phrases = captions(background)
    phrase = phrases[rng.integers(len(phrases))]
    noise = rng.uniform() < NOISE_SHARE
    if rng.uniform() < PAPER_SHARE:
        return row(*_paper(category, phrase, rng), noise=rng if noise else None)
    text = repeat(category, phrase, REPETITIONS[rng.integers(len(REPETITIONS))])
    return row(text, None if rng.uniform() < DROP_SHARE else 2, noise=rng if noise else None)


def repeat(category: str, phrase: str, count: int) -> str:
    """The released template without its vectors: `a {category} {phrase}` `count` times."""
    return ", ".join([f"a {category} {phrase}"] * count)


def row(text: str, position: int | None, noise: np.random.Generator | None = None) -> tuple[np.ndarray, int]:
    """Token ids [77] of a text, with room for the vectors at `position` (negative: counted from the end)."""
    room = ROW - (0 if position is None else VECTORS)
    words = list(token_ids(text))[: room - 2]
    if noise is not None:
        words.insert(int(noise.integers(2, len(words) + 1)) if len(words) > 2 else len(words), UNKNOWN)
        words = words[: room - 2]
    ids = [CLIP_START, *words] + [CLIP_END] * (room - 1 - len(words))
    if position is None:
        return np.array(ids), -1
    if position < 0:
        position += len(words) + 2
    return np.array(ids[:position] + [CLIP_END] * VECTORS + ids[position:]), position


def _paper(category: str, phrase: str, rng: np.random.Generator) -> tuple[str, int | None]:
    if rng.uniform() < DROP_SHARE:
        return f"{phrase}, the {category}", None
    # the vectors come last: just before the end token
    return f"{phrase}, the {category} is", -1


@lru_cache(maxsize=4096)
def token_ids(text: str) -> tuple[int, ...]:
    """CLIP's ids of a text, without start and end."""
    return tuple(clip_ids(text))
