"""Attention with its probabilities in hand, for the few layers and moments that need them."""

from __future__ import annotations

import torch
from torch import Tensor


def probabilities(q: Tensor, k: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(dim) + bias) as float32 `[batch, heads, queries, keys]`.

    Args:
        q, k: `[batch, tokens, heads * dim]`.
        bias: `[batch, queries, keys]`, the same for every head.
    """
    q, k = split_heads(q, heads).float(), split_heads(k, heads).float()
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return torch.softmax(scores if bias is None else scores + bias[:, None].float(), dim=-1)


def apply_probabilities(probs: Tensor, v: Tensor) -> Tensor:
    """Weighted values `[batch, queries, heads * dim]` in the precision of `v` `[batch, keys, heads * dim]`."""
    out = probs.to(v.dtype) @ split_heads(v, probs.shape[1])
    return out.transpose(1, 2).flatten(2)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """`[batch, tokens, heads * dim]` to `[batch, heads, tokens, dim]`."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
