"""Local blend: where the edit may differ from its source, from the attention to the words that change.

Columns of the chosen words are summed, their mean over heads is summed over layers and steps, neighbours are joined,
and what exceeds a share of their range belongs to the mask (docs/method.md 6.4, steps 1 to 6). Maps are enlarged
smoothly, where the release repeats cells, and measured from their lowest value, where the release measures from 0.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

Place = tuple[str, int]

_REACH = 16  # of this part of a side neighbours are joined
# A map of fewer cells says too little of where a thing is.
FEWEST_CELLS = 64

Area = tuple[int, int, int, int]  # (height, width, top, left) in cells of the latent


def choose_layers(latent: tuple[int, int], blocks: Mapping[Place, int]) -> frozenset[Place]:
    """Places of the layers whose maps are used: the coarsest ones of the down and up blocks.

    In Stable Diffusion 1.5 those are the five that the release reads, 16x16 at 512x512 pixels, and the same five at
    other sizes. The middle block never counts where there is another layer: it says too little of places. Of pictures
    so small that the coarsest map would have fewer than 64 cells, the next finer layers are taken.

    Args:
        latent: (height, width).
        blocks: the model's layers, ("input" | "middle" | "output", number), each with how often the latent's sides are
            halved there.
    """
    outside = {place: downsamples for place, downsamples in blocks.items() if place[0] != "middle"} or blocks
    levels = sorted(set(outside.values()), reverse=True)
    chosen = next((level for level in levels if _cells(latent, level) >= FEWEST_CELLS), levels[-1])
    return frozenset(place for place, downsamples in outside.items() if downsamples == chosen)


def _cells(latent: tuple[int, int], downsamples: int) -> int:
    height, width = (-(-side // 2**downsamples) for side in latent)
    return height * width


class WordMaps:
    """Sums of attention to the chosen words, of sources and edits apart.

    Layers of one level may still differ in size, where another node resizes inside the UNet for part of the run; and
    prompts may be confined to parts of the picture. So the sums are kept apart until they are enlarged and in place.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple, Tensor] = {}  # by grid and area: [2, N, h, w]
        self._counts: dict[tuple, int] = {}

    def add(self, source: Tensor, edit: Tensor, area: Area | None = None) -> None:
        """Maps of one layer and step, `[N, h, w]` each, of all of the picture or of an area."""
        key, maps = (tuple(source.shape[-2:]), area), torch.stack([source, edit])
        self._sums[key] = self._sums[key] + maps if key in self._sums else maps
        self._counts[key] = self._counts.get(key, 0) + 1

    def mask(self, latent: tuple[int, int], threshold: float) -> Tensor | None:
        """1 where either map exceeds `threshold` of its range, float32 `[N, 1, height, width]`; None before the
        first map. 0 where no prompt with the words is."""
        if not self._sums:
            return None
        source, edit = self._mean(latent)[:, :, None]
        mask = torch.maximum(_above(source, latent, threshold), _above(edit, latent, threshold))
        return mask * (self._cover(latent) > 0).to(mask)

    def _mean(self, latent: tuple[int, int]) -> Tensor:
        """Both maps at the latent's size, `[2, N, height, width]`; 0 where none is."""
        first = next(iter(self._sums.values()))
        total = first.new_zeros(*first.shape[:2], *latent)
        for (_, area), maps in self._sums.items():
            place = _place(latent, area)
            size = total[place].shape[-2:]
            total[place] += F.interpolate(maps, size, mode="bilinear", align_corners=False)
        return total / self._cover(latent).clamp(min=1).to(total)

    def _cover(self, latent: tuple[int, int]) -> Tensor:
        """Number of maps on each cell."""
        cover = torch.zeros(latent)
        for (_, area), count in self._counts.items():
            cover[_place(latent, area)] += count
        return cover


def column_map(probs: Tensor, columns: tuple[int, ...], grid: tuple[int, int]) -> Tensor:
    """Attention to some columns, mean over heads: `[N, heads, h * w, T]` to `[N, h, w]`."""
    if not columns:
        return probs.new_zeros(len(probs), *grid)
    return probs[..., list(columns)].sum(-1).mean(1).unflatten(-1, grid)


def mix(source: Tensor, edit: Tensor, mask: Tensor) -> Tensor:
    """The edit inside the mask, the source outside, `[N, C, h, w]`; exactly the source where the mask is 0."""
    return torch.where(mask > 0, source + mask * (edit - source), source)


def _place(latent: tuple[int, int], area: Area | None) -> tuple:
    """Where in `[..., height, width]` an area is."""
    height, width, top, left = (*latent, 0, 0) if area is None else area
    return ..., slice(top, top + height), slice(left, left + width)


def _above(enlarged: Tensor, latent: tuple[int, int], threshold: float) -> Tensor:
    # The release joins the 3x3 neighbours of 16x16 cells. The same reach in cells of the latent, because on a coarser
    # map (small pictures) a whole cell around would be most of the picture.
    reach = [max(1, round(side / _REACH)) for side in latent]
    joined = F.max_pool2d(enlarged, [2 * r + 1 for r in reach], stride=1, padding=reach)
    low, high = joined.amin((-2, -1), keepdim=True), joined.amax((-2, -1), keepdim=True)
    # From the lowest value on: 16 vectors draw some attention from everywhere, which says nothing of the place.
    return (joined - low > threshold * (high - low)).float()
