"""Training pictures to squares for the image tower: random crops."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...files import as_tensor
from ...pictures.preprocess import fit_square, normalise


def crop_for_tower(picture: np.ndarray, size: int, low: float, flip: float, rng: np.random.Generator) -> Tensor:
    """A random part of at least `low` of the area, aspect 3/4 to 4/3, perhaps mirrored: `[3, size, size]`, normalised.

    With `low` = 1 it is the middle square, as in generation.
    """
    box, mirrored = draw_box(*picture.shape[1::-1], low, rng), rng.uniform() < flip
    if low == 1:
        square = fit_square(as_tensor(picture)[None], size)[0].numpy()
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
