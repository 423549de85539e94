"""The grounding resampler: a picture's tokens become 16 tokens of a subject, asked for by its phrase and its box
(docs/method.md 13.3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention.probabilities import split_heads
from .config import ResamplerConfig

_HIGHEST = 100.0  # where the frequencies of a box would end if there were one more


def fourier_features(boxes: Tensor, frequencies: int) -> Tensor:
    """Sines and cosines of a box's edges, float32 `[..., 8 * frequencies]`.

    For each frequency, 100^(k / frequencies) without a factor of 2 pi, the sines of left, top, right and bottom and
    then their cosines.

    Args:
        boxes: left, top, right, bottom in 0..1, `[..., 4]`.
    """
    steps = torch.arange(frequencies, dtype=torch.float32, device=boxes.device)
    angles = (_HIGHEST ** (steps / frequencies))[:, None] * boxes.float()[..., None, :]
    return torch.stack([angles.sin(), angles.cos()], dim=-2).flatten(-3)


class GroundingResampler(nn.Module):
    """Names of the parameters are those of the released file."""

    def __init__(self, config: ResamplerConfig):
        super().__init__()
        self.config = config
        grounding = config.phrase_width + 8 * config.frequencies
        self.grounding_latents = nn.Parameter(torch.randn(1, config.queries, config.width) / config.width**0.5)
        self.latent_proj = nn.Sequential(
            nn.Linear(grounding, 2 * grounding), nn.GELU(), nn.Linear(2 * grounding, config.queries * config.width)
        )
        self.latent_norm = nn.LayerNorm(config.width)
        self.proj_in = nn.Linear(config.image_width, config.width)
        self.layers = nn.ModuleList(
            _Block(_ReadingAttention(config), _feed_forward(config.width, config.feed_forward))
            for _ in range(config.depth)
        )
        self.attention_norm = nn.LayerNorm(config.width)
        self.proj_out = nn.Linear(config.width, config.context_width)
        self.norm_out = nn.LayerNorm(config.context_width)

    def forward(self, features: Tensor, phrases: Tensor, boxes: Tensor, ungrounded: Tensor | None = None) -> Tensor:
        """Tokens of each subject, `[subjects, 16, context width]`.

        Args:
            features: image tokens of each subject's picture, `[subjects, tokens, image width]`.
            phrases: `[subjects, phrase width]`.
            boxes: `[subjects, 4]`, left, top, right, bottom in 0..1.
            ungrounded: bool `[subjects]`, true where learned queries stand in for phrase and box; None for nowhere.
        """
        queries = self.grounded_queries(phrases, boxes)
        if ungrounded is not None:
            queries = torch.where(ungrounded[:, None, None], self.grounding_latents.to(queries), queries)
        tokens = self.proj_in(features)
        for block in self.layers:
            queries = block(tokens, queries)
        return self.norm_out(self.proj_out(self.attention_norm(queries)))

    def grounded_queries(self, phrases: Tensor, boxes: Tensor) -> Tensor:
        """What the resampler asks with, `[subjects, 16, width]`."""
        where = fourier_features(boxes, self.config.frequencies).to(phrases)
        queries = self.latent_proj(torch.cat([phrases, where], dim=-1))
        return self.latent_norm(queries.unflatten(-1, (self.config.queries, self.config.width)))


class _Block(nn.ModuleList):
    """Attention and feed-forward, numbered 0 and 1 in files; each adds to what is there."""

    def __init__(self, attention: nn.Module, feed_forward: nn.Module):
        super().__init__([attention, feed_forward])

    def forward(self, tokens: Tensor, queries: Tensor) -> Tensor:
        queries = queries + self[0](tokens, queries)
        return queries + self[1](queries)


class _ReadingAttention(nn.Module):
    """Queries look at the picture's tokens and at each other."""

    def __init__(self, config: ResamplerConfig):
        super().__init__()
        inner = config.heads * config.head_width
        self.heads = config.heads
        self.norm1, self.norm2 = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.to_q = nn.Linear(config.width, inner, bias=False)
        self.to_kv = nn.Linear(config.width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, config.width, bias=False)

    def forward(self, tokens: Tensor, queries: Tensor) -> Tensor:
        queries = self.norm2(queries)
        keys, values = self.to_kv(torch.cat([self.norm1(tokens), queries], dim=1)).chunk(2, dim=-1)
        q, k, v = (split_heads(each, self.heads) for each in (self.to_q(queries), keys, values))
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def _feed_forward(width: int, times: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, times * width, bias=False),
        nn.GELU(),
        nn.Linear(times * width, width, bias=False),
    )
