"""Local blend: where the edit may differ from its source, from the attention to the words that change.

Columns of the chosen words are summed, their mean over heads is summed over layers and steps, neighbours are joined,
and what exceeds a share of their range belongs to the mask (fact sheet 6.4, steps 1 to 6). Maps are enlarged smoothly,
where the release repeats cells, and measured from their lowest value, where the release measures from 0.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_REACH = 16  # of this part of a side neighbours are joined
# A map of fewer cells says too little of where a thing is.
FEWEST_CELLS = 64


def choose_level(latent: tuple[int, int], halvings: set[int]) -> int:
    """How often the latent's sides are halved in the layers whose maps are used: the coarsest level with at least 64
    cells (16x16 for pictures of 512x512), or else the finest there is."""
    for level in sorted(halvings, reverse=True):
        height, width = (-(-side // 2**level) for side in latent)
        if height * width >= FEWEST_CELLS:
            return level
    return min(halvings)


class WordMaps:
    """Sums of attention to the chosen words, of sources and edits apart."""

    def __init__(self) -> None:
        self._source: Tensor | None = None
        self._edit: Tensor | None = None

    def add(self, source: Tensor, edit: Tensor) -> None:
        """Maps of one layer and step, `[N, h, w]` each."""
        self._source = source if self._source is None else self._source + source
        self._edit = edit if self._edit is None else self._edit + edit

    def mask(self, latent: tuple[int, int], threshold: float) -> Tensor | None:
        """1 where either map exceeds `threshold` of its range, float32 `[N, 1, height, width]`; None before the
        first map."""
        if self._source is None:
            return None
        return torch.maximum(_above(self._source, latent, threshold), _above(self._edit, latent, threshold))


def column_map(probs: Tensor, columns: tuple[int, ...], grid: tuple[int, int]) -> Tensor:
    """Attention to some columns, mean over heads: `[N, heads, h * w, T]` to `[N, h, w]`."""
    if not columns:
        return probs.new_zeros(len(probs), *grid)
    return probs[..., list(columns)].sum(-1).mean(1).unflatten(-1, grid)


def mix(source: Tensor, edit: Tensor, mask: Tensor) -> Tensor:
    """The edit inside the mask, the source outside, `[N, C, h, w]`; exactly the source where the mask is 0."""
    return torch.where(mask > 0, source + mask * (edit - source), source)


def _above(maps: Tensor, latent: tuple[int, int], threshold: float) -> Tensor:
    enlarged = F.interpolate(maps[:, None], latent, mode="bilinear", align_corners=False)
    # The release joins the 3x3 neighbours of 16x16 cells. The same reach in cells of the latent, because on a coarser
    # map (small pictures) a whole cell around would be most of the picture.
    reach = [max(1, round(side / _REACH)) for side in latent]
    joined = F.max_pool2d(enlarged, [2 * r + 1 for r in reach], stride=1, padding=reach)
    low, high = joined.amin((-2, -1), keepdim=True), joined.amax((-2, -1), keepdim=True)
    # From the lowest value on: 16 vectors draw some attention from everywhere, which says nothing of the place.
    return (joined - low > threshold * (high - low)).float()
