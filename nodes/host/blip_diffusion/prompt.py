"""A prompt with a subject in it, encoded by the host's own CLIP.

The host turns the text into tokens (weights, `embedding:`, escapes), `prompt.arrange` puts the subject's vectors among
them, one vector per position, and the host encodes the rows: LoRA, clip skip and hooks on the CLIP act as on any text.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from ...blipdiff_impl.errors import SubjectError
from ...blipdiff_impl.prompt import SENTINEL, TEMPLATES, PromptText, Token, arrange, compose
from ...blipdiff_impl.subject import Subject
from .models import ENCODER_OF_CLIP
from .token_columns import tagged, vector_columns, word_pieces

__all__ = ["TEMPLATES", "encode_prompt", "encode_subject_prompt"]

Conditioning = list[list]  # the host's: [[embeddings [B, T, W], options], ...], one entry per scheduled hook
Rows = list[list[Token]]

log = logging.getLogger(__name__)


def encode_subject_prompt(
    clip,
    subject: Subject,
    prompt: str,
    category: str = "",
    template: str = TEMPLATES[0],
    prompt_strength: float = 1.0,
    prompt_reps: int = 20,
    subject_strength: float = 1.0,
) -> Conditioning:
    """CONDITIONING for a prompt in words; `prompt.compose` explains the arguments.

    Raises:
        SubjectError: empty prompt or category, or a CLIP that does not fit the subject.
    """
    category = category if category.strip() else subject.category
    return encode_prompt(
        clip, subject, compose(prompt, category, template, prompt_strength, prompt_reps), subject_strength
    )


def encode_prompt(clip, subject: Subject, text: PromptText, subject_strength: float = 1.0) -> Conditioning:
    """CONDITIONING for the prompt, a batch with one item per subject.

    Args:
        clip: a CLIP of Stable Diffusion 1.5; its width must be the subject's.
        subject_strength: 0 is the host's encoding of `text.plain`, 1 the prompt with the subject; between and beyond,
            plain + strength * (subject - plain).

    Raises:
        SubjectError: a CLIP of another kind, or of another width.
    """
    require_fitting(clip, subject)
    if subject_strength == 0:
        tokens = clip.tokenize(text.plain)
        return tagged(clip.encode_from_tokens_scheduled(tokens), word_pieces(clip, tokens["l"]), ())
    rows = [subject_rows(clip, vectors, text) for vectors in subject.embeddings]
    encoded = batched([clip.encode_from_tokens_scheduled({"l": item}) for item in rows])
    if subject_strength == 1:
        return _tagged(encoded, clip, rows[0], subject)
    plain = clip.tokenize(text.plain)["l"]
    count = max(len(plain), len(rows[0]))
    plain = clip.encode_from_tokens_scheduled({"l": lengthen(clip, plain, count)})
    if len(rows[0]) < count:
        rows = [lengthen(clip, item, count) for item in rows]
        encoded = batched([clip.encode_from_tokens_scheduled({"l": item}) for item in rows])
    encoded = _tagged(encoded, clip, rows[0], subject)
    return [
        [torch.lerp(base.expand_as(full), full, subject_strength), options]
        for (base, _), (full, options) in zip(plain, encoded, strict=True)
    ]


def subject_rows(clip, vectors: Tensor, text: PromptText) -> Rows:
    """The prompt as the host's rows of 77 positions, with `vectors` `[16, W]` in the subject's place."""
    first, repeat, sentinel = (content(clip, part) for part in (text.first, text.repeat, SENTINEL))
    rows = arrange(first, repeat, text.repetitions, [item for item, _ in sentinel], vectors)
    return framed(clip, rows)


def _tagged(encoded: Conditioning, clip, rows: Rows, subject: Subject) -> Conditioning:
    places = ((subject.category, vector_columns(rows, subject.embeddings[0])),)
    return tagged(encoded, word_pieces(clip, rows), places)


def framed(clip, rows: Rows) -> Rows:
    """Rows of at most 75 positions with start, end and padding, as the host encodes them."""
    empty = clip.tokenize("")["l"][0]  # start, end, padding
    return [[empty[0], *row, *empty[1 : len(empty) - len(row)]] for row in rows]


def content(clip, text: str) -> list[Token]:
    """Tokens of a text without start, end and padding; the host numbers those 0 and words from 1."""
    rows = clip.tokenize(text, return_word_ids=True)["l"]
    return [(item, weight) for row in rows for item, weight, word in row if word != 0]


def lengthen(clip, rows: Rows, count: int) -> Rows:
    """Rows followed by empty ones, `count` in all."""
    return rows + clip.tokenize("")["l"] * (count - len(rows))


def batched(items: list[Conditioning]) -> Conditioning:
    """Several encodings of equal length as one: `[1, T, W]` each to `[N, T, W]`; options are those of the first."""
    return [[torch.cat([cond for cond, _ in entry]), entry[0][1]] for entry in zip(*items, strict=True)]


def require_stable_diffusion(clip) -> None:
    """Raises SubjectError for a CLIP of another kind than that of Stable Diffusion 1.5."""
    if kinds := sorted(clip.tokenize("").keys() - {"l"}):
        raise SubjectError(
            f"This CLIP is not one of Stable Diffusion 1.5: it also has the text encoder {', '.join(map(repr, kinds))} "
            "(SDXL and later have several). Subjects need the CLIP of a Stable Diffusion 1.5 model."
        )


def require_fitting(clip, subject: Subject) -> None:
    """Warn of a subject that another model's encoder made.

    Raises:
        SubjectError: a CLIP of another kind, or of another width.
    """
    require_stable_diffusion(clip)
    width = clip.cond_stage_model.clip_l.transformer.get_input_embeddings().embedding_dim
    if width != subject.width:
        raise SubjectError(
            f"The subject's vectors have width {subject.width}, but this CLIP has width {width}. Use the CLIP of the "
            "model whose encoder made the subject."
        )
    maker = getattr(clip.cond_stage_model, ENCODER_OF_CLIP, None)
    if maker != subject.encoder_fingerprint:
        log.warning(
            "The subject (%s, %s) was made by the encoder of another model than this CLIP; it may look less alike.",
            subject.category or "no category",
            subject.source,
        )
