"""A SUBJECT: the small immutable object that every node takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import SubjectError


@dataclass(frozen=True, eq=False)
class Subject:
    """Subject vectors and where they came from.

    Attributes:
        embeddings: `[N, 16, W]` float32 on the CPU; N subjects sample as one batch, W is the text encoder's width.
        category: what the thing is, for prompts that do not say otherwise.
        encoder_fingerprint: identifies the weights that made the vectors.
        source: a phrase for people, such as "3 photos, crop".

    Raises:
        SubjectError: embeddings of another shape, or with NaN in them.
    """

    embeddings: Tensor
    category: str
    encoder_fingerprint: str
    source: str = ""

    def __post_init__(self):
        if self.embeddings.ndim != 3 or 0 in self.embeddings.shape:
            raise SubjectError(
                f"A subject holds vectors [subjects, tokens, width], but these are {list(self.embeddings.shape)}."
            )
        if not torch.isfinite(self.embeddings).all():
            raise SubjectError("The subject's vectors hold NaN or infinite values; their model is damaged.")
        object.__setattr__(self, "embeddings", self.embeddings.detach().to("cpu", torch.float32))

    def __len__(self) -> int:
        return len(self.embeddings)

    @property
    def num_tokens(self) -> int:
        """How many words of the prompt one subject takes (16)."""
        return self.embeddings.shape[1]

    @property
    def width(self) -> int:
        """Width of the text encoder the vectors are made for (768 for Stable Diffusion 1.5)."""
        return self.embeddings.shape[2]
