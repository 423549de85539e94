"""Which grid of the picture the tokens of an attention layer are."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt, prod

from ..errors import SubjectError

_ROUNDING = 1.0  # cells that a side may differ from the picture's shape, after resizing and halving


def token_grid(tokens: int, activations: Sequence[int] | None, latent: Sequence[int]) -> tuple[int, int]:
    """(height, width) of the grid that `tokens` are, row by row.

    Args:
        activations: shape `[..., height, width]` of what the layer works on, where the host says it.
        latent: shape `[..., height, width]` of what the UNet was given. Its sides are halved, rounding up, on the way
            down; other nodes may resize by other factors.

    Raises:
        SubjectError: there is no such grid: another node merged or dropped tokens.
    """
    if activations is not None and activations[-2] * activations[-1] == tokens:
        return activations[-2], activations[-1]
    height, width = latent[-2:]
    while height * width > tokens:
        height, width = (height + 1) // 2, (width + 1) // 2
    if height * width == tokens:
        return height, width
    away, found = min((_distance(sides, latent[-2:]), sides) for sides in _sides(tokens))
    if away > _ROUNDING:
        raise SubjectError(
            f"Another node on this MODEL left {tokens} tokens of a picture of {latent[-1]}x{latent[-2]} in "
            "cross-attention, which is no grid of that shape. Leave out what merges or drops tokens there."
        )
    return found


def _sides(tokens: int) -> list[tuple[int, int]]:
    """All (height, width) of that many cells."""
    small = [side for side in range(1, isqrt(tokens) + 1) if tokens % side == 0]
    return [(side, tokens // side) for side in small] + [(tokens // side, side) for side in small]


def _distance(sides: tuple[int, int], latent: Sequence[int]) -> float:
    """Cells between the sides of a grid and those of the latent, scaled to as many cells."""
    scale = (prod(sides) / prod(latent)) ** 0.5
    return max(abs(side - scale * whole) for side, whole in zip(sides, latent, strict=True))
