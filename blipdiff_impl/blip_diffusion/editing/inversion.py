"""From a picture back to the noise that gives it, by running deterministic sampling in reverse.

In the variance-exploding scale a sampling step is x_p = x_t + (s_p - s_t) eps(x_t, s_t), with noise levels s_t > s_p.
Inverting it asks for x_t, which stands on both sides. DDIM inversion takes the prediction at the point that is known,
eps(x_p, t), scaled as the UNet would see it (docs/method.md 6.3); the fixed-point variant repeats with the x_t it found
(Pan et al. 2023) and so comes back to the picture far more closely.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

METHODS = ("fixed point", "DDIM")
# Of the state's length. Below it another repetition changes nothing that a picture shows.
CONVERGED = 1e-4

Denoise = Callable[[Tensor, float], Tensor]  # (x, sigma) -> predicted clean latent


def invert(
    denoise: Denoise,
    x: Tensor,
    sigmas: list[float],
    repetitions: int,
    on_step: Callable[[int, Tensor, Tensor], None] = lambda done, x, denoised: None,
) -> list[Tensor]:
    """States at every noise level, the clean latent `x` `[N, 4, h, w]` first.

    Args:
        denoise: the model's prediction; may raise to stop.
        sigmas: noise levels in rising order, the first 0.
        repetitions: of the fixed-point equation; 0 is DDIM inversion.
        on_step: called with (levels done, state, predicted clean latent).
    """
    states = [x]
    for index in range(1, len(sigmas)):
        low, high = sigmas[index - 1], sigmas[index]
        seen = x * ((1 + high**2) / (1 + low**2)) ** 0.5
        denoised = denoise(seen, high)
        guess = x + (high - low) * (seen - denoised) / high
        x = _fixed_point(denoise, x, guess, low, high, repetitions)
        states.append(x)
        on_step(index, x, denoised)
    return states


def _fixed_point(denoise: Denoise, x: Tensor, guess: Tensor, low: float, high: float, repetitions: int) -> Tensor:
    """The state at `high` whose sampling step comes nearest to `x`; repeating can also lead away from it.

    Each repetition asks the device for one value: a wait is short beside the evaluation of the UNet that it may save.
    """
    best, least = guess, float("inf")
    for _ in range(repetitions):
        again = x + (high - low) * (guess - denoise(guess, high)) / high
        error = float((again - guess).norm() / again.norm().clamp(min=1e-12))
        if error < least:
            best, least = again, error
        if error < CONVERGED:
            break
        guess = again
    return best
