"""Where each subject's columns may be seen: masks over the picture become an additive bias on attention scores.

softmax(s + log m) weighs a column by m before normalisation: 1 leaves it as it is, 0 takes it away, values between
fade. One bias serves every head.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor

from ..pictures.preprocess import check_regions

# exp underflows to exactly 0, and half precision still holds it. Infinity would give NaN in attention that goes
# through the columns in pieces.
HIDDEN = -1e4


@dataclass(frozen=True, eq=False)
class Regions:
    """Which columns of a prompt are seen in which part of the picture.

    Attributes:
        tokens: columns of the encoded prompt.
        spans: (first column, one past the last, number of the mask); columns in no span are seen everywhere.
        masks: `[N or 1, H, W]` in 0..1, picture-sized; sizes may differ.
    """

    tokens: int
    spans: tuple[tuple[int, int, int], ...]
    masks: tuple[Tensor, ...]

    def bias(
        self, grid: tuple[int, int], latent: tuple[int, int], area: tuple[int, int, int, int] | None = None
    ) -> Tensor:
        """What is added to attention scores: float32 `[N, h * w, tokens]`, 0 or less.

        Args:
            grid: (h, w) of the query tokens.
            latent: (height, width) of the whole latent.
            area: (height, width, top, left) of the part of the latent that is looked at; None for all of it.
        """
        shown = [_pool(mask, grid, latent, area).flatten(1).log().clamp(min=HIDDEN) for mask in self.masks]
        bias = torch.zeros(max(map(len, shown)), grid[0] * grid[1], self.tokens)
        for start, stop, number in self.spans:
            bias[:, :, start:stop] = shown[number][..., None]
        return bias


def checked_mask(mask: Tensor, name: str) -> Tensor | None:
    """The mask as float32 `[N, H, W]` in 0..1 on the CPU; None for one that leaves nothing out.

    Raises:
        SubjectError: another shape, not finite, or nothing in it.
    """
    mask = check_regions(mask, name, "so its subject would be nowhere. Paint a region.")
    return None if bool((mask == 1).all()) else mask


def soften(mask: Tensor, width: int) -> Tensor:
    """The mask `[N, H, W]` with edges blurred over `width` pixels (Gaussian of half that spread); 0 leaves it."""
    if width <= 0:
        return mask
    sigma = width / 2
    radius = ceil(3 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    mask = mask[:, None]
    # edge values go on outside the picture, so that a region at its border does not fade there
    mask = F.conv2d(F.pad(mask, (radius, radius, 0, 0), mode="replicate"), kernel)
    mask = F.conv2d(F.pad(mask, (0, 0, radius, radius), mode="replicate"), kernel.mT)
    return mask[:, 0].clamp(0, 1)


def _pool(
    mask: Tensor, grid: tuple[int, int], latent: tuple[int, int], area: tuple[int, int, int, int] | None
) -> Tensor:
    """Share of each grid cell that lies in the mask, `[N, h, w]`."""
    mask = F.adaptive_avg_pool2d(mask[:, None], latent)
    if area is not None:
        height, width, top, left = area
        mask = mask[:, :, top : top + height, left : left + width]
    return F.adaptive_avg_pool2d(mask, grid)[:, 0]
