"""Attention with its probabilities in hand, for the few layers and moments that need them."""

from __future__ import annotations

from collections.abc import Sequence

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


def column_means(
    q: Tensor, k: Tensor, heads: int, columns: Sequence[Sequence[int]], period: int, bias: Tensor | None = None
) -> Tensor:
    """How much each query looks at chosen columns: means over heads and over the columns of a map.

    One picture at a time: the probabilities of all heads and columns are the largest thing here.

    Args:
        q: `[B, queries, heads * dim]`.
        k: `[B, keys, heads * dim]`.
        columns: of each map, each at least one.
        period: keys after which the prompt repeats, at least its own columns; a host repeats the shorter of two.
        bias: what is added to the scores, `[B, queries, keys]`.

    Returns:
        float32 `[B, maps, queries]`.
    """
    found = []
    for picture in range(len(q)):
        one = slice(picture, picture + 1)
        seen = probabilities(q[one], k[one], heads, None if bias is None else bias[one])[0].mean(dim=0)
        seen = seen.unflatten(-1, (-1, period)).sum(dim=1)  # [queries, period]
        found.append(torch.stack([seen[:, list(each)].mean(dim=1) for each in columns]))
    return torch.stack(found)


def apply_probabilities(probs: Tensor, v: Tensor) -> Tensor:
    """Weighted values `[batch, queries, heads * dim]` in the precision of `v` `[batch, keys, heads * dim]`."""
    out = probs.to(v.dtype) @ split_heads(v, probs.shape[1])
    return out.transpose(1, 2).flatten(2)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """`[batch, tokens, heads * dim]` to `[batch, heads, tokens, dim]`."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
