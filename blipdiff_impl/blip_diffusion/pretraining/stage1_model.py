"""First stage: the Q-Former learns what a picture says, through three tasks at once (paper section 3.2)."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..subject_module import SubjectEncoderModule
from .attention_patterns import bidirectional, multimodal_causal, side_by_side, unimodal
from .losses import (
    CaptionHead,
    caption_input,
    captioning_loss,
    contrastive_loss,
    make_triples,
    matching_loss,
    next_words,
    similarities,
)
from .settings import Stage1Settings


@dataclass(frozen=True)
class Stage1Batch:
    """Pictures with captions.

    Attributes:
        features: rows of the frozen tower, before its norm, `[B, P, W]`.
        ids, mask: word pieces of the captions `[B, T]`, T the same everywhere; 1 on real ones.
        chances: `[B, 2]` in 0..1, what hard negatives are drawn with.
    """

    features: Tensor
    ids: Tensor
    mask: Tensor
    chances: Tensor


class Stage1Model(nn.Module):
    """Everything that the first stage trains. `forward` gives the three losses.

    Args:
        encoder: gives Q-Former and the norm behind the tower.
        caption_start: id of `[DEC]`.
    """

    def __init__(self, encoder: SubjectEncoderModule, settings: Stage1Settings, caption_start: int):
        super().__init__()
        sizes = encoder.config.qformer
        self.qformer = encoder.qformer
        self.image_norm = copy.deepcopy(encoder.visual_encoder.post_layernorm)
        self.image_projection = nn.Linear(sizes.hidden_size, settings.embedding_size)
        self.text_projection = nn.Linear(sizes.hidden_size, settings.embedding_size)
        self.match_head = nn.Linear(sizes.hidden_size, 2)
        self.caption_head = CaptionHead(sizes.hidden_size, sizes.vocab_size, sizes.layer_norm_eps)
        self.temperature = nn.Parameter(torch.tensor([settings.temperature]))  # a row: FSDP2 shards no single numbers
        self._range = settings.temperature_low, settings.temperature_high
        self._smoothing = settings.label_smoothing
        self._start = caption_start
        self._queries = sizes.num_query_tokens

    def forward(self, batch: Stage1Batch) -> dict[str, Tensor]:
        """Losses of contrast, matching and captioning; the stage minimises their sum."""
        queries, text, caption = self._see_and_read(batch)
        found = similarities(
            F.normalize(self.image_projection(queries), dim=-1),
            F.normalize(self.text_projection(text[:, 0]), dim=-1),
            self.temperature,
        )
        triples = make_triples(batch.features, batch.ids, batch.mask, found, batch.chances)
        scores = self.caption_head(caption, self.qformer.embeddings.word_embeddings.weight)
        return {
            "contrast": contrastive_loss(found, self._smoothing),
            "matching": matching_loss(self._match(triples), triples.labels),
            "captioning": captioning_loss(scores, next_words(batch.ids, batch.mask), self._smoothing),
        }

    def _see_and_read(self, batch: Stage1Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Query rows and text rows that know nothing of each other, and caption rows that know the queries."""
        captions = caption_input(batch.ids, self._start)
        pattern = side_by_side(
            unimodal(batch.mask, self._queries), multimodal_causal(batch.mask, self._queries), self._queries
        )
        rows = self.qformer.all_rows(self.image_norm(batch.features), [batch.ids, captions], pattern)
        length = batch.ids.shape[1]
        return rows.split([self._queries, length, length], dim=1)

    def _match(self, triples) -> Tensor:
        pattern = bidirectional(triples.mask, self._queries)
        rows = self.qformer.all_rows(self.image_norm(triples.features), [triples.ids], pattern)
        return self.match_head(rows[:, : self._queries])

    @torch.no_grad()
    def after_step(self) -> None:
        """Keep the temperature in its range."""
        self.temperature.clamp_(*self._range)
