"""A composed prompt with a subject through the text encoder, outside ComfyUI (docs/method.md 1.5)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import SubjectError
from ..prompts.rows import SENTINEL, PromptText, arrange
from ..prompts.tokenizers import clip_ids
from ..stable_diffusion.text_encoder import TextEncoder
from .subject import Subject


def encode_subject(encoder: TextEncoder, text: PromptText, subject: Subject) -> Tensor:
    """The prompt with each subject of the batch: `[N, 77 * chunks, W]`.

    Raises:
        SubjectError: the subject's width is not the encoder's.
    """
    if subject.width != encoder.config.hidden_size:
        raise SubjectError(
            f"The subject's vectors are {subject.width} wide, the text encoder takes {encoder.config.hidden_size}. "
            "Encode the subject with the model that generates."
        )
    tokens = [[(i, 1.0) for i in clip_ids(part)] for part in (text.first, text.repeat)]
    contexts = []
    for vectors in subject.embeddings:
        rows = arrange(*tokens, text.repetitions, clip_ids(SENTINEL), vectors)
        contexts.append(torch.cat([encoder.encode_row(row) for row in rows], dim=1))
    return torch.cat(contexts)
