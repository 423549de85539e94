"""A prompt with a subject in it, encoded by the host's own CLIP.

The host turns the text into tokens (weights, `embedding:`, escapes), `prompt.arrange` puts the subject's vectors among
them, one vector per position, and the host encodes the rows: LoRA, clip skip and hooks on the CLIP act as on any text.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ....blipdiff_impl.blip_diffusion.subject import Subject
from ....blipdiff_impl.errors import SubjectError, first_few
from ....blipdiff_impl.prompts.rows import (
    SENTINEL,
    SUBJECT_MARKER,
    TEMPLATES,
    PromptText,
    arrange,
    compose,
    lookalikes,
    tidied,
)
from ..notices import tell
from ..prompt_rows import Conditioning, Rows, batched, content, framed, lengthen, require_stable_diffusion
from ..token_columns import tagged, vector_columns, word_pieces
from .marks import ENCODER_OF_CLIP

if TYPE_CHECKING:
    from comfy.sd import CLIP

__all__ = ["TEMPLATES", "encode_prompt", "encode_subject_prompt"]


def encode_subject_prompt(
    clip: CLIP,
    subject: Subject,
    prompt: str,
    *,
    category: str = "",
    template: str = TEMPLATES[0],
    prompt_strength: float = 1.0,
    prompt_reps: int = 20,
    subject_strength: float = 1.0,
) -> Conditioning:
    """CONDITIONING for a prompt in words; `prompt.compose` explains the arguments.

    Raises:
        SubjectError: an empty category, or a CLIP that does not fit the subject.
    """
    point_out_lookalikes(prompt)
    category = category if category.strip() else subject.category
    return encode_prompt(
        clip, subject, compose(prompt, category, template, prompt_strength, prompt_reps), subject_strength
    )


def point_out_lookalikes(prompt: str) -> None:
    """Tell of `[subjekt]` or `{subject}`, and of a lonely word `subject`: the front end makes that of `{subject}`."""
    if not point_out_brackets(prompt) and SUBJECT_MARKER not in tidied(prompt):
        _tell_of_words(re.findall(r"\bsubject\b", prompt, re.IGNORECASE)[:1])


def point_out_brackets(*prompts: str) -> bool:
    """Tell of `[subjekt]` or `{subject}`, as somebody writes it who means the marker; whether there was one."""
    alike = [part for prompt in prompts for part in lookalikes(prompt, ["subject"])]
    _tell_of_words(list(dict.fromkeys(alike)))
    return bool(alike)


def _tell_of_words(alike: list[str]) -> None:
    if alike:
        tell(
            f"{first_few(alike)} in the prompt is read as words. The subject's place is written {SUBJECT_MARKER}; "
            "without it the subject stands at the beginning."
        )


def encode_prompt(clip: CLIP, subject: Subject, text: PromptText, subject_strength: float = 1.0) -> Conditioning:
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


def subject_rows(clip: CLIP, vectors: Tensor, text: PromptText) -> Rows:
    """The prompt as the host's chunks of 77 positions, with `vectors` `[16, W]` in the subject's place."""
    first, repeat, sentinel = (content(clip, part) for part in (text.first, text.repeat, SENTINEL))
    rows = arrange(first, repeat, text.repetitions, [item for item, _ in sentinel], vectors)
    return framed(clip, rows)


def _tagged(encoded: Conditioning, clip: CLIP, rows: Rows, subject: Subject) -> Conditioning:
    places = ((subject.category, vector_columns(rows, subject.embeddings[0])),)
    return tagged(encoded, word_pieces(clip, rows), places)


def require_fitting(clip: CLIP, subject: Subject) -> None:
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
        tell(
            f"The subject ({subject.category or 'no category'}, {subject.source}) was made by the encoder of another "
            "model than this CLIP; it may look less alike."
        )
