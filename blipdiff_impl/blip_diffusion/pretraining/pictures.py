"""Training pictures to squares: random crops for the image tower, the middle for the autoencoder."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..preprocess import fit_square, normalise


def crop_for_tower(picture: np.ndarray, size: int, low: float, flip: float, rng: np.random.Generator) -> Tensor:
    """A random part of at least `low` of the area, aspect 3/4 to 4/3, perhaps mirrored: `[3, size, size]`, normalised.

    With `low` = 1 it is the middle square, as in generation.
    """
    box, mirrored = draw_box(*picture.shape[1::-1], low, rng), rng.uniform() < flip
    if low == 1:
        square = fit_square(torch.from_numpy(np.array(picture))[None].float() / 255, size)[0].numpy()
    else:
        part = Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC, box=box)
        square = np.asarray(part, dtype=np.float32) / 255
    return normalise(torch.from_numpy(np.ascontiguousarray(square[:, ::-1] if mirrored else square))[None])[0]


def draw_box(width: int, height: int, low: float, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a random crop; a part that does not fit becomes as large as fits."""
    area = rng.uniform(low, 1) * width * height
    aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
    wide, high = min(width, math.sqrt(area * aspect)), min(height, math.sqrt(area / aspect))
    left, top = rng.uniform() * (width - wide), rng.uniform() * (height - high)
    return left, top, left + wide, top + high


def target_square(picture: np.ndarray, size: int) -> Tensor:
    """The original as the autoencoder takes it: shorter side to `size`, the middle, `[3, size, size]` in -1..1."""
    return 2 * fit_square(torch.from_numpy(np.array(picture))[None].float() / 255, size)[0].permute(2, 0, 1) - 1


def mask_cells(mask: np.ndarray | None, side: int) -> Tensor:
    """How much of each latent cell is subject, `[1, side, side]` in 0..1, cut like the target; zeros without a mask."""
    if mask is None:
        return torch.zeros(1, side, side)
    short = min(mask.shape)
    top, left = (mask.shape[0] - short) // 2, (mask.shape[1] - short) // 2
    square = Image.fromarray(np.ascontiguousarray(mask[top : top + short, left : left + short]))
    return torch.from_numpy(np.asarray(square.resize((side, side), Image.Resampling.BOX), np.float32) / 255)[None]


def picture_grid(*rows: list[np.ndarray]) -> np.ndarray:
    """Rows of pictures uint8 `[H, W, 3]` as one; each is fitted to the size of the last row's first."""
    side = rows[-1][0].shape[0]
    squares = [[fit_square(torch.from_numpy(np.array(p))[None].float() / 255, side)[0] for p in row] for row in rows]
    grid = torch.cat([torch.cat(row, dim=1) for row in squares], dim=0)
    return grid.clamp(0, 1).mul(255).round().byte().numpy()
