"""Which row of the Q-Former may look at which: three patterns (BLIP-2, figure 2; docs/method.md 9.1).

Rows are queries, then texts. A pattern is bool `[B, L, L]`: row i may look at row j. Padded text is never looked at.
"""

from __future__ import annotations

import torch
from torch import Tensor


def unimodal(mask: Tensor, queries: int) -> Tensor:
    """Contrastive: queries see queries, text sees text. `mask` `[B, T]` is 1 on real word pieces."""
    return _blocks(queries, _rows(mask, mask.shape[1]), sees_queries=False, is_seen=None)


def multimodal_causal(mask: Tensor, queries: int) -> Tensor:
    """Captioning: queries see queries, a word sees every query, itself and the words before it."""
    length = mask.shape[1]
    earlier = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
    return _blocks(queries, _rows(mask, length) & earlier, sees_queries=True, is_seen=None)


def bidirectional(mask: Tensor, queries: int) -> Tensor:
    """Matching: every row sees every row."""
    return _blocks(queries, _rows(mask, mask.shape[1]), sees_queries=True, is_seen=_rows(mask, queries))


def side_by_side(first: Tensor, second: Tensor, queries: int) -> Tensor:
    """One pattern over queries, first text and second text, neither text seeing the other.

    Queries look at queries only in both, so one pass gives what two would, and the image is read once.
    """
    text, length = first.shape[1] - queries, first.shape[1] + second.shape[1] - queries
    both = first.new_zeros(len(first), length, length)
    both[:, : queries + text, : queries + text] = first
    both[:, queries + text :, :queries] = second[:, queries:, :queries]
    both[:, queries + text :, queries + text :] = second[:, queries:, queries:]
    return both


def _rows(mask: Tensor, count: int) -> Tensor:
    """`count` rows that see the real word pieces, `[B, count, T]`."""
    return mask.bool()[:, None].expand(-1, count, -1)


def _blocks(queries: int, text: Tensor, sees_queries: bool, is_seen: Tensor | None) -> Tensor:
    """The whole pattern from text looking at text `[B, T, T]` and queries looking at text (None: not at all)."""
    batch, length = text.shape[:2]
    pattern = text.new_zeros(batch, queries + length, queries + length)
    pattern[:, :queries, :queries] = True
    pattern[:, queries:, :queries] = sees_queries
    pattern[:, queries:, queries:] = text
    if is_seen is not None:
        pattern[:, :queries, queries:] = is_seen
    return pattern
