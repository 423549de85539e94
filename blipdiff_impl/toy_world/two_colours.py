"""The toy world in another style: every place printed in two colours, violet and yellow; things keep their own."""

from __future__ import annotations

import numpy as np

from .colour import rgb_to_lab

INK, PAPER = np.array((74, 20, 120.0)), np.array((255, 222, 92.0))
_LUMINANCE = np.array((0.299, 0.587, 0.114))
_SHADES = 64


def in_two_colours(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A picture uint8 `[H, W, 3]` in the style: dark is ink, light is paper, but for the thing.

    Args:
        mask: how much of each pixel is thing, uint8 `[H, W]` in 0..255.
    """
    light = (picture @ _LUMINANCE / 255)[..., None]
    printed = INK + (PAPER - INK) * light
    share = mask[..., None] / 255
    return (picture * share + printed * (1 - share)).round().astype(np.uint8)


def distance_from_style(picture: np.ndarray, mask: np.ndarray) -> float:
    """How far a picture's ground is from the style: mean Lab distance to the nearest shade between ink and paper.

    Args:
        picture: uint8 `[H, W, 3]`.
        mask: where the thing is, bool `[H, W]`; not everywhere.
    """
    shades = rgb_to_lab(INK + (PAPER - INK) * np.linspace(0, 1, _SHADES)[:, None])
    ground = rgb_to_lab(picture[~mask].astype(float))
    return float(np.linalg.norm(ground[:, None] - shades, axis=-1).min(1).mean())
