"""A SUBJECT: the small immutable object that every node takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import SubjectError


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

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write it as one `.safetensors`, which ComfyUI reads as an embedding too; see `subject_file`.

        Raises:
            SubjectError: the file exists, its name does not end in .safetensors, or the disk is full.
        """
        from .subject_file import write_subject

        write_subject(path, self, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> Subject:
        """The subject of a saved file, without the weights that may lie beside it.

        Raises:
            SubjectError: the file is missing, damaged or of another kind.
        """
        from .subject_file import read_subject

        return read_subject(path).subject
