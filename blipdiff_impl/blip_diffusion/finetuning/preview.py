"""A preview of what has been learned: a few DDIM steps (Song et al. 2020, eq. 12, eta 0) with the UNet in training."""

from __future__ import annotations

import torch
from torch import Tensor

from ...stable_diffusion.plms import leading_timesteps
from .tuner import ContextOf, Predict

STEPS = 8
GUIDANCE = 5.0


class Preview:
    """Always the same noise and prompt, so that pictures of different steps compare.

    Args:
        context_of: vectors to the prompt's context `[1, 77, W]`.
        empty: context of the empty prompt, `[1, 77, W]`.
        latent_shape: `[4, h, w]`.
    """

    def __init__(
        self, context_of: ContextOf, empty: Tensor, latent_shape: tuple[int, ...], alphas_bar: Tensor, seed: int
    ):
        generator = torch.Generator().manual_seed(seed)
        self._noise = torch.randn(1, *latent_shape, generator=generator).to(empty.device)
        self._context_of = context_of
        self._empty = empty
        self._alphas_bar = alphas_bar.to(empty.device)

    @torch.no_grad()
    def latents(self, predict: Predict, vectors: Tensor, precision: torch.dtype) -> Tensor:
        """Latents `[1, 4, h, w]`, float32, in the UNet's scale."""
        context = torch.cat([self._empty, self._context_of(vectors)]).to(precision)
        timesteps = leading_timesteps(STEPS, offset=1)
        x = self._noise
        for t, following in zip(timesteps, [*timesteps[1:], 0], strict=True):
            both = x.to(precision).repeat(2, 1, 1, 1)
            unguided, guided = predict(both, torch.full((2,), t, device=x.device), context).float().chunk(2)
            eps = unguided + GUIDANCE * (guided - unguided)
            alpha, alpha_next = self._alphas_bar[t], self._alphas_bar[following]
            x_0 = (x - (1 - alpha).sqrt() * eps) / alpha.sqrt()
            x = alpha_next.sqrt() * x_0 + (1 - alpha_next).sqrt() * eps
        return x
