"""Grids of pictures, by which a training shows what it draws."""

from __future__ import annotations

import numpy as np
import torch

from ..files import as_tensor
from ..pictures.pixels import to_uint8
from ..pictures.preprocess import fit_square


def picture_grid(*rows: list[np.ndarray]) -> np.ndarray:
    """Rows of pictures uint8 `[H, W, 3]` as one; each is fitted to the size of the last row's first."""
    side = rows[-1][0].shape[0]
    squares = [[fit_square(as_tensor(p)[None], side)[0] for p in row] for row in rows]
    grid = torch.cat([torch.cat(row, dim=1) for row in squares], dim=0)
    return to_uint8(grid)
