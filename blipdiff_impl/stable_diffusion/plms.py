"""PNDM without Runge-Kutta start ("PLMS"), the sampler of the paper, in sigma space.

In the variance-exploding scale x / sqrt(alpha_bar) the deterministic DDIM transfer of the published scheduler is a
straight line, x' = x + (sigma' - sigma) * eps, and PLMS is Adams-Bashforth on eps (Liu et al. 2022, eq. 12). The first
step averages eps at both of its ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from ..errors import SubjectError
from .noise import TRAIN_TIMESTEPS

# Adams-Bashforth weights by how many values of eps are known, newest first.
_ADAMS_BASHFORTH = {
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


def leading_timesteps(steps: int, offset: int = 0) -> list[int]:
    """The published spacing, descending: 980, 960, ..., 20, 0 for 50 steps.

    The release samples with offset 0 (docs/method.md 1.6). It lists the second timestep twice; that repetition is the
    two-ended first step of `sample_plms` and no entry here.

    Raises:
        SubjectError: fewer than 1 or more than `TRAIN_TIMESTEPS` steps.
    """
    if not 1 <= steps <= TRAIN_TIMESTEPS:
        raise SubjectError(f"steps = {steps} is not possible; choose 1 to {TRAIN_TIMESTEPS}.")
    stride = TRAIN_TIMESTEPS // steps
    return [stride * i + offset for i in reversed(range(steps))]


def sample_plms(
    eps: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    sigmas: Sequence[Tensor] | Tensor,
    on_step: Callable[[int, Tensor, Tensor, Tensor], None] = lambda index, x, sigma, noise: None,
) -> Tensor:
    """Follow `sigmas` down with Adams-Bashforth steps of order 2 to 4.

    Args:
        eps: predicted noise at (x, sigma); called once per step, and once more in the first.
        x: starting point in the variance-exploding scale.
        sigmas: descending; one more entry than steps.
        on_step: called before each step with (index, x, sigma, predicted noise).

    Returns:
        x at the last sigma, in the same scale.
    """
    known: list[Tensor] = []  # newest first
    for index in range(len(sigmas) - 1):
        sigma, following = sigmas[index], sigmas[index + 1]
        noise = eps(x, sigma)
        on_step(index, x, sigma, noise)
        known = [noise, *known[:3]]
        if index == 0 and following > 0:  # eps is not defined at sigma 0
            noise = (noise + eps(x + (following - sigma) * noise, following)) / 2
        elif index > 0:
            noise = sum(weight * value for weight, value in zip(_ADAMS_BASHFORTH[len(known)], known, strict=True))
        x = x + (following - sigma) * noise
    return x
