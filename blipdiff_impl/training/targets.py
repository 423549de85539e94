"""What is drawn in training: a picture for the autoencoder or its latent, and where in it the subject is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..files import as_tensor
from ..pictures.preprocess import fit_square
from .precision import without_autocast
from .samples import BrokenSample, Sample


def target_square(picture: np.ndarray, size: int) -> Tensor:
    """The original as the autoencoder takes it: shorter side to `size`, the middle, `[3, size, size]` in -1..1."""
    return 2 * fit_square(as_tensor(picture)[None], size)[0].permute(2, 0, 1) - 1


def ready_latent(sample: Sample, shape: tuple[int, ...]) -> Tensor | None:
    """The latent that comes with a sample; None where it has none.

    Raises:
        BrokenSample: it is of another size.
    """
    if sample.latent is None:
        return None
    if sample.latent.shape != shape:
        raise BrokenSample(f"{sample.key}: the latent is {sample.latent.shape}, not {shape}.")
    return torch.from_numpy(sample.latent)


def collated_targets(targets: list[Tensor]) -> dict[str, Tensor]:
    """Pictures `[3, S, S]` and ready latents `[4, h, w]` apart, each with its rows."""
    raw = {}
    for name, channels in (("pictures", 3), ("latents", 4)):
        rows = [i for i, target in enumerate(targets) if len(target) == channels]
        if rows:
            raw[name], raw[f"{name}_rows"] = torch.stack([targets[i] for i in rows]), torch.tensor(rows)
    return raw


def latents_of(raw: dict[str, Tensor], encode: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
    """All latents of what `collated_targets` gave, `[B, 4, h, w]`, of the shape of `like`.

    The autoencoder computes in the type of its weights also where the rest trains in mixed precision: Stable Diffusion
    XL's overflows in float16, and what is learned from should not be rounded.
    """
    latents = torch.empty_like(like)
    if "latents" in raw:
        latents[raw["latents_rows"]] = raw["latents"]
    if "pictures" in raw:
        with without_autocast(like.device):
            latents[raw["pictures_rows"]] = encode(raw["pictures"])
    return latents


def mask_cells(mask: np.ndarray | None, side: int) -> Tensor:
    """How much of each latent cell is subject, `[1, side, side]` in 0..1, cut like the target; zeros without a mask."""
    if mask is None:
        return torch.zeros(1, side, side)
    short = min(mask.shape)
    top, left = (mask.shape[0] - short) // 2, (mask.shape[1] - short) // 2
    square = Image.fromarray(np.ascontiguousarray(mask[top : top + short, left : left + short]))
    return as_tensor(square.resize((side, side), Image.Resampling.BOX))[None]
