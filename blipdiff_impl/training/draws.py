"""Everything that is left to chance in training, from one seed: the same on every device and in every precision."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..stable_diffusion.noise import TRAIN_TIMESTEPS


@dataclass(frozen=True, eq=False)
class Draw:
    """One batch: numbers of the pictures `[B]`, which are mirrored `[B]`, timesteps `[B]` in 0..999, noise."""

    pictures: Tensor
    flipped: Tensor
    timesteps: Tensor
    noise: Tensor


def draws(
    count: int, batch: int, latent_shape: tuple[int, ...], seed: int, flip: bool = False, even: bool = False
) -> Iterator[Draw]:
    """Batches without end. Each picture comes once before any comes again; timesteps are uniform.

    Args:
        count: number of pictures.
        latent_shape: of one picture, `[4, h, w]`.
        even: timesteps follow each other in golden steps from a random one, so that any few of them cover 0..999
            evenly; else each is drawn by itself.
    """
    generator = torch.Generator().manual_seed(seed)
    order = _rounds(count, generator)
    golden = _golden(generator) if even else None
    while True:
        yield Draw(
            torch.tensor([next(order) for _ in range(batch)]),
            torch.rand(batch, generator=generator) < (0.5 if flip else 0.0),
            torch.tensor([next(golden) for _ in range(batch)]) if golden
            else torch.randint(TRAIN_TIMESTEPS, (batch,), generator=generator),
            torch.randn(batch, *latent_shape, generator=generator),
        )  # fmt: skip


def _rounds(count: int, generator: torch.Generator) -> Iterator[int]:
    while True:
        yield from torch.randperm(count, generator=generator).tolist()


def _golden(generator: torch.Generator) -> Iterator[int]:
    """Timesteps of a low-discrepancy sequence: multiples of the golden ratio, modulo 1."""
    place, step = float(torch.rand((), generator=generator)), (math.sqrt(5) - 1) / 2
    while True:
        yield int(place * TRAIN_TIMESTEPS)
        place = (place + step) % 1
