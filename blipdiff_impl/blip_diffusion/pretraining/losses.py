"""Image-text matching: is this the caption of that picture? Asked of true and of hard false pairs (fact sheet 9.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .contrastive import Similarities
from .gathering import gather_values


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
