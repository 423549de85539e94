"""Image-grounded captioning: the caption word by word from what the queries saw (fact sheet 9.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .gathering import process, total

IGNORED = -100


class CaptionHead(nn.Module):
    """BERT's prediction head: dense, GELU, norm, then the word embeddings themselves and a bias per word."""

    def __init__(self, width: int, vocabulary: int, eps: float):
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.LayerNorm = nn.LayerNorm(width, eps=eps)
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, rows: Tensor, word_embeddings: Tensor) -> Tensor:
        """Scores of every word, `[..., vocabulary]`."""
        return F.linear(self.LayerNorm(F.gelu(self.dense(rows))), word_embeddings, self.bias)


def caption_input(ids: Tensor, start: int) -> Tensor:
    """The caption's word pieces with `[CLS]` replaced by the token that starts captions, `[DEC]`."""
    return torch.cat([torch.full_like(ids[:, :1], start), ids[:, 1:]], dim=1)


def next_words(ids: Tensor, mask: Tensor) -> Tensor:
    """What each row of `ids` `[B, T]` shall predict; `IGNORED` where nothing or padding follows."""
    following = ids[:, 1:].masked_fill(mask[:, 1:] == 0, IGNORED)
    return torch.cat([following, torch.full_like(ids[:, :1], IGNORED)], dim=1)


def captioning_loss(scores: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Mean cross-entropy over the words of all processes' captions.

    Captions differ in length; each process divides by the mean count, so that the mean over processes is right.
    """
    words = total((targets != IGNORED).sum().float()) / process()[1]
    scores, targets = scores.float().flatten(0, 1), targets.flatten()
    losses = F.cross_entropy(scores, targets, ignore_index=IGNORED, label_smoothing=smoothing, reduction="sum")
    return losses / words
