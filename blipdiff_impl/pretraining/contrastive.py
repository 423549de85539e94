"""Image-text contrast: a picture and its own caption are closer than either is to any other (fact sheet 9.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .gathering import gather, process


@dataclass(frozen=True)
class Similarities:
    """Local pictures against all texts `[B, N]`, local texts against all pictures `[B, N]`, and who belongs to whom.

    Attributes:
        own: `[B]`, the column of each row's partner.
    """

    pictures: Tensor
    texts: Tensor
    own: Tensor


def similarities(image_rows: Tensor, text_rows: Tensor, temperature: Tensor) -> Similarities:
    """s(I, T) = max over queries of cosine, divided by the temperature, over the batch of all processes.

    Args:
        image_rows: projected query rows `[B, queries, D]`, of length 1.
        text_rows: projected text `[B, D]`, of length 1.
    """
    all_images, all_texts = gather(image_rows), gather(text_rows)
    own = process()[0] * len(text_rows) + torch.arange(len(text_rows), device=text_rows.device)
    pictures = torch.einsum("bqd,nd->bnq", image_rows, all_texts).amax(-1)
    texts = torch.einsum("bd,nqd->bnq", text_rows, all_images).amax(-1)
    return Similarities(pictures / temperature, texts / temperature, own)


def contrastive_loss(found: Similarities, smoothing: float) -> Tensor:
    """Mean of both directions' cross-entropies with label smoothing."""
    pictures = F.cross_entropy(found.pictures.float(), found.own, label_smoothing=smoothing)
    texts = F.cross_entropy(found.texts.float(), found.own, label_smoothing=smoothing)
    return (pictures + texts) / 2
