"""The Q-Former: 16 learned queries read an image and the name of its subject together (docs/method.md 1.3).

The layers are transformers' BLIP-2 Q-Former with its text branch on. What stands here is what goes in: queries
without positions, text with positions and without token types, one LayerNorm over both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from .config import QFormerConfig

if TYPE_CHECKING:
    from transformers.models.blip_2.modeling_blip_2 import Blip2QFormerLayer


class QFormerEmbeddings(nn.Module):
    """Query tokens and word-piece ids to one sequence `[B, queries + T, width]`, queries first.

    Several texts stand one after the other, each with positions from 0.
    """

    def __init__(self, config: QFormerConfig):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(0.1)

    def forward(self, queries: Tensor, *texts: Tensor) -> Tensor:
        words = [self.word_embeddings(ids) + self.position_embeddings.weight[: ids.shape[1]] for ids in texts]
        return self.dropout(self.LayerNorm(torch.cat([queries.expand(len(texts[0]), -1, -1), *words], dim=1)))


class QFormer(nn.Module):
    """Image features and word pieces to the 16 query rows of the last layer."""

    def __init__(self, config: QFormerConfig, image_width: int):
        super().__init__()
        from transformers import Blip2QFormerConfig
        from transformers.models.blip_2.modeling_blip_2 import Blip2QFormerEncoder

        settings: dict[str, Any] = {
            "vocab_size": config.vocab_size,
            "hidden_size": config.hidden_size,
            "num_hidden_layers": config.num_hidden_layers,
            "num_attention_heads": config.num_attention_heads,
            "intermediate_size": config.intermediate_size,
            "max_position_embeddings": config.max_position_embeddings,
            "layer_norm_eps": config.layer_norm_eps,
            "hidden_act": "gelu",
            "cross_attention_frequency": 1,
            "encoder_hidden_size": image_width,
            "use_qformer_text_input": True,
            "attn_implementation": "sdpa",
        }
        self.query_tokens = nn.Parameter(torch.zeros(1, config.num_query_tokens, config.hidden_size))
        self.embeddings = QFormerEmbeddings(config)
        self.encoder = Blip2QFormerEncoder(Blip2QFormerConfig(**settings))

    @property
    def layers(self) -> list[Blip2QFormerLayer]:
        """From the first on, each with feed-forward parts of its own for query rows and for text."""
        return cast("list[Blip2QFormerLayer]", list(self.encoder.layer))  # a ModuleList does not say of what

    def forward(self, features: Tensor, ids: Tensor, mask: Tensor | None) -> Tensor:
        """Query rows `[B, queries, width]`.

        Args:
            features: image features `[B, P, image width]`; every one is attended to.
            ids: word pieces `[B, T]`.
            mask: `[B, T]`, 1 on real pieces, 0 on padding; None where there is none, for attention's fastest path.
        """
        count = self.query_tokens.shape[1]
        rows = self.embeddings(self.query_tokens, ids)
        hidden = None if mask is None else _additive_mask(mask, count, rows.dtype)
        return self._encode(rows, features, hidden)[:, :count]

    def all_rows(self, features: Tensor, texts: Sequence[Tensor], visible: Tensor) -> Tensor:
        """Query rows and text rows under an attention pattern, `[B, queries + T1 + T2 ..., width]`.

        Args:
            features: image features `[B, P, image width]`, read by the query rows only.
            texts: word pieces `[B, T]` of each text.
            visible: bool `[B, L, L]` over all rows: row i may look at row j. Every row must see one at least.
        """
        rows = self.embeddings(self.query_tokens, *texts)
        hidden = torch.zeros(visible.shape, dtype=rows.dtype, device=rows.device)
        return self._encode(rows, features, hidden.masked_fill(~visible, torch.finfo(rows.dtype).min)[:, None])

    def _encode(self, rows: Tensor, features: Tensor, mask: Tensor | None) -> Tensor:
        output = self.encoder(
            rows,
            attention_mask=mask,
            encoder_hidden_states=features.to(rows.dtype),
            query_length=self.query_tokens.shape[1],
        )
        return output.last_hidden_state


def _additive_mask(mask: Tensor, queries: int, dtype: torch.dtype) -> Tensor:
    """What is added to attention scores: 0 where a column may be seen, a huge negative number on padded text."""
    visible = torch.cat([mask.new_ones(len(mask), queries), mask], dim=1)
    hidden = torch.zeros(visible.shape, dtype=dtype, device=mask.device)
    return hidden.masked_fill(visible == 0, torch.finfo(dtype).min)[:, None, None, :]
