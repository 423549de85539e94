"""The forward process and the loss of noise prediction (Ho et al. 2020, eq. 4 and 14)."""

from __future__ import annotations

import torch
from torch import Tensor

TRAIN_TIMESTEPS = 1000


def alphas_bar() -> Tensor:
    """Cumulative products of 1 - beta, `[1000]`, of Stable Diffusion: scaled-linear 0.00085 to 0.012."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, TRAIN_TIMESTEPS, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0).float()


def add_noise(x_0: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps; `alpha_bar` is `[B]`, one per picture."""
    alpha_bar = alpha_bar[:, None, None, None]
    return alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * eps


def noise_loss(predicted: Tensor, eps: Tensor, weights: Tensor | None = None, by_time: Tensor | None = None) -> Tensor:
    """Mean squared error.

    Args:
        weights: what each place counts, `[B, 1, h, w]`; their mean does not matter.
        by_time: what each picture counts, `[B, 1, 1, 1]`; their mean does.
    """
    error = (predicted.float() - eps).square()
    if by_time is not None:
        error = by_time * error
    return error.mean() if weights is None else (weights * error).mean() / weights.mean()


def min_snr_weights(alphas: Tensor, gamma: float) -> Tensor | None:
    """min(SNR, gamma) / SNR at these alphas_bar `[B]`, `[B, 1, 1, 1]` (Hang et al. 2023, for noise prediction); None
    for gamma 0, which leaves all timesteps alike."""
    if not gamma:
        return None
    snr = alphas / (1 - alphas)
    return (snr.clamp(max=gamma) / snr)[:, None, None, None]


def error_weights(alphas: Tensor, cells: Tensor, min_snr: float, mask_weight: float) -> Tensor:
    """`[B, 1, h, w]`: min(SNR, gamma) / SNR (Hang et al. 2023, for noise prediction), more inside the subject.

    Args:
        cells: share of subject in each latent cell, `[B, 1, h, w]`.
        min_snr: gamma; 0 leaves all timesteps alike.
    """
    weights, by_time = 1 + mask_weight * cells, min_snr_weights(alphas, min_snr)
    return weights if by_time is None else by_time * weights
