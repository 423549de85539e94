"""The training caption and the preview's prompt: token embeddings with the subject's vectors after the word "a"."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import SubjectError
from ...prompts.rows import ROW, ROW_POSITIONS
from ...prompts.tokenizers import CLIP_END, CLIP_START
from .text import FrozenTextEncoder

_PLACE = 2  # after the start and "a" (docs/method.md 1.5)


class SubjectCaption:
    """`a [subject] {words}`: call it with vectors `[1, 16, W]` for the text encoder's output `[1, T, W]`.

    Args:
        words: token ids of `a {words}`, without start and end.
        vectors: how many vectors will come.
        padded: fill up to the 77 positions that a prompt has; the caption of training is as long as it is
            (docs/method.md 5.1), T = 4 + 16 for a category of one token.

    Raises:
        SubjectError: too many words.
    """

    def __init__(self, encoder: FrozenTextEncoder, words: list[int], vectors: int = 16, padded: bool = False):
        room = ROW_POSITIONS - vectors
        if len(words) > room and not padded:
            raise SubjectError(
                f"The category takes {len(words) - 1} tokens of the text encoder, but only {room - 1} have room beside "
                "the subject. Name it in a word or two."
            )
        ids = [CLIP_START, *words[:room], CLIP_END]
        if padded:
            ids += [CLIP_END] * (ROW - vectors - len(ids))
        embedded = encoder.embed(ids)
        self._encoder = encoder
        self._before, self._after = embedded[:_PLACE], embedded[_PLACE:]

    def __call__(self, vectors: Tensor) -> Tensor:
        return self._encoder(torch.cat([self._before, vectors[0], self._after])[None])


def plain_caption(encoder: FrozenTextEncoder, words: list[int], padded: bool = False) -> Tensor:
    """A caption without a subject, `[1, T, W]`."""
    ids = [CLIP_START, *words[:ROW_POSITIONS], CLIP_END]
    if padded:
        ids += [CLIP_END] * (ROW - len(ids))
    return encoder(encoder.embed(ids)[None])
