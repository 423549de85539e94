"""One noise for source and edit: at the start of a run, and in samplers that add noise on the way."""

from __future__ import annotations

import inspect
from collections.abc import Generator
from contextlib import contextmanager

import comfy.k_diffusion.sampling as k_sampling
import torch
from torch import Tensor

from .....blipdiff_impl.errors import SubjectError

# Takes any options and hands them to a function that takes noise.
_FORWARDING = {"dpm_adaptive_function"}
# Draw noise of their own, which nobody can share out.
_REFUSED = {"sample_ar_video"}
_WORKING = "euler, ddim, dpmpp_2m, heun, uni_pc, euler_ancestral, dpmpp_sde"


def as_pairs(values: Tensor) -> Tensor:
    """Every edit's values replaced by those of its source: items 0, 2, 4 ... go to 1, 3, 5 ... too."""
    return values[0::2].repeat_interleave(2, dim=0)


@contextmanager
def shared_step_noise(sampler, sigmas: Tensor, seed: int | None, noise: Tensor) -> Generator[None, None, None]:
    """Within the block the sampler adds the same noise to source and edit, at every step that adds any.

    Args:
        sampler: the host's SAMPLER; its options are put back afterwards.
        noise: the start noise, pairs of equal items.

    Raises:
        SubjectError: a sampler whose noise cannot be shared.
    """
    function = getattr(sampler, "sampler_function", None)
    options = getattr(sampler, "extra_options", {})
    if function is None or not _takes_noise(function):
        _require_quiet(function, options)
        yield
        return
    sampler.extra_options = {"noise_sampler": _SharedNoise(function, sigmas, seed, noise), **options}
    try:
        yield
    finally:
        sampler.extra_options = options


class _SharedNoise:
    """The noise that the sampler would draw for the sources, given to both of each pair."""

    def __init__(self, function, sigmas: Tensor, seed: int | None, noise: Tensor):
        sources = noise[0::2]
        name = function.__name__
        if "dpmpp" in name and "sde" in name:  # the host's choice too: noise of overlapping steps must fit together
            positive = sigmas[sigmas > 0]
            self._draw = k_sampling.BrownianTreeNoiseSampler(
                sources, positive.min(), positive.max(), seed=seed, cpu=True
            )
        else:
            self._draw = k_sampling.default_noise_sampler(sources, seed=seed)

    def __call__(self, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        return self._draw(sigma, sigma_next).repeat_interleave(2, dim=0)


def _takes_noise(function) -> bool:
    return function.__name__ in _FORWARDING or "noise_sampler" in inspect.signature(function).parameters


def _require_quiet(function, options: dict) -> None:
    name = getattr(function, "__name__", "sampler").removeprefix("sample_")
    if getattr(function, "__name__", "") in _REFUSED or options.get("s_churn", 0) > 0:
        raise SubjectError(
            f"The sampler {name!r} adds noise of its own (s_churn above 0, for example), so that edit and source would "
            f"drift apart. Use another one: {_WORKING} work."
        )


def solve_noise(model_sampling, sigma: Tensor, latent: Tensor, start: Tensor, max_denoise: bool) -> Tensor:
    """The noise with which the host starts a run at `start`, whatever it does to noise and latent."""
    nothing, one = torch.zeros_like(start), torch.ones_like(start)
    base = model_sampling.noise_scaling(sigma, nothing.clone(), latent.clone(), max_denoise)
    scale = model_sampling.noise_scaling(sigma, one, nothing, max_denoise)
    return (start - base) / scale
