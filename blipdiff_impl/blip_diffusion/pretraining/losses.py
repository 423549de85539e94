"""The three losses of the first stage (paper section 3.2, docs/method.md 9.1): image-text contrast, image-text matching
and image-grounded captioning."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...training.distributed import gather, gather_values, process, total


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


@dataclass(frozen=True)
class Triples:
    """3B pairs of frozen image features `[3B, P, W]` and text `[3B, T]`: true, wrong picture, wrong text."""

    features: Tensor
    ids: Tensor
    mask: Tensor

    @property
    def labels(self) -> Tensor:
        """1 on the true pairs."""
        third = len(self.ids) // 3
        return (torch.arange(len(self.ids), device=self.ids.device) < third).long()


def hard_negatives(similarity: Tensor, own: Tensor, chances: Tensor) -> Tensor:
    """For each row a wrong column `[B]`, the likelier the more similar: softmax without the own column.

    Args:
        similarity: `[B, N]`, N at least 2.
        chances: uniform in 0..1, `[B]`; they decide what is drawn.
    """
    weights = similarity.detach().double().scatter(1, own[:, None], -torch.inf).softmax(1)
    ends = weights.cumsum(1)
    drawn = torch.searchsorted(ends, (chances.double() * ends[:, -1])[:, None], right=True)[:, 0]
    return _not_own(drawn.clamp(max=similarity.shape[1] - 1), own, weights)


def _not_own(drawn: Tensor, own: Tensor, weights: Tensor) -> Tensor:
    """Rounding may land on a column without weight; the likeliest one stands in."""
    return torch.where(weights.gather(1, drawn[:, None])[:, 0] > 0, drawn, weights.argmax(1))


def make_triples(features: Tensor, ids: Tensor, mask: Tensor, found: Similarities, chances: Tensor) -> Triples:
    """True pairs and pairs with hard negatives from the batch of all processes; `chances` is `[B, 2]`."""
    wrong_image = hard_negatives(found.texts, found.own, chances[:, 0])
    wrong_text = hard_negatives(found.pictures, found.own, chances[:, 1])
    all_features, all_ids, all_masks = gather_values(features), gather_values(ids), gather_values(mask)
    return Triples(
        torch.cat([features, all_features[wrong_image], features]),
        torch.cat([ids, ids, all_ids[wrong_text]]),
        torch.cat([mask, mask, all_masks[wrong_text]]),
    )


def matching_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the mean over queries of their logits `[B, queries, 2]`."""
    return F.cross_entropy(logits.float().mean(1), labels)


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
    """What each row of `ids` `[B, T]` should predict; `IGNORED` where nothing or padding follows."""
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
