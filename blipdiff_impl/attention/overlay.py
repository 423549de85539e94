"""Attention maps as pictures: heat over a picture (paper Figure 7)."""

from __future__ import annotations

import torch
from torch import Tensor

# Heat from "not looked at" to "most looked at": lightness rises all the way, so that it reads without colour too.
_HEAT = torch.tensor(
    [(0.05, 0.03, 0.2), (0.35, 0.07, 0.43), (0.74, 0.21, 0.33), (0.97, 0.56, 0.04), (0.99, 0.99, 0.64)]
)


def overlay(picture: Tensor, maps: Tensor, opacity: float) -> Tensor:
    """Heat over a picture.

    Args:
        picture: `[H, W, 3]` in 0..1.
        maps: `[maps, H, W]` in 0..1.
        opacity: 0 is the picture, 1 the heat alone.

    Returns:
        `[maps, H, W, 3]` in 0..1.
    """
    return torch.lerp(picture.expand(*maps.shape, 3), heat(maps), opacity)


def heat(maps: Tensor) -> Tensor:
    """Values `[...]` in 0..1 as colours `[..., 3]`, linear between the five of the ramp."""
    place = maps.clamp(0, 1) * (len(_HEAT) - 1)
    lower = place.floor().long().clamp(max=len(_HEAT) - 2)
    return torch.lerp(_HEAT[lower], _HEAT[lower + 1], (place - lower)[..., None])
