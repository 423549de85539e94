"""The published sampler (PNDM without Runge-Kutta start) as the host's SAMPLER and SIGMAS."""

from __future__ import annotations

from typing import TYPE_CHECKING

import comfy.samplers
import torch
from torch import Tensor

from ...blipdiff_impl.errors import SubjectError
from ...blipdiff_impl.stable_diffusion.noise import TRAIN_TIMESTEPS
from ...blipdiff_impl.stable_diffusion.plms import leading_timesteps, sample_plms

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


def pndm_sampler() -> comfy.samplers.KSAMPLER:
    """A SAMPLER for SamplerCustom."""
    return comfy.samplers.KSAMPLER(_sample)


def pndm_sigmas(model: ModelPatcher, steps: int, denoise: float = 1.0) -> Tensor:
    """The model's sigmas at the published timesteps, descending.

    The last is that of timestep 0, not 0: the release's extra evaluation there does not move the sample.

    Args:
        denoise: below 1, the last `steps` of a schedule with steps / denoise entries, as in the host's own schedulers.

    Raises:
        SubjectError: no steps are left, more than the model was trained with, or the model has no such table.
    """
    if denoise <= 0:
        return torch.empty(0)
    table = getattr(model.get_model_object("model_sampling"), "sigmas", None)
    if table is None or len(table) != TRAIN_TIMESTEPS:
        raise SubjectError(
            f"This MODEL has no table of {TRAIN_TIMESTEPS} sigmas. PNDM needs a model of the Stable Diffusion 1.5 "
            "family."
        )
    timesteps = leading_timesteps(int(steps / denoise))
    return table[timesteps[-steps:]].float().cpu()


def _sample(model, x: Tensor, sigmas: Tensor, extra_args=None, callback=None, disable=None) -> Tensor:
    """The host's calling convention around `sample_plms`; `model(x, sigma)` gives the denoised latent."""
    extra_args = extra_args or {}
    ones = x.new_ones(len(x))

    def eps(x: Tensor, sigma: Tensor) -> Tensor:
        return (x - model(x, sigma * ones, **extra_args)) / sigma

    def on_step(index: int, x: Tensor, sigma: Tensor, noise: Tensor) -> None:
        if callback is not None:
            callback({"i": index, "x": x, "sigma": sigma, "sigma_hat": sigma, "denoised": x - sigma * noise})

    x = sample_plms(eps, x * _start_scale(model, sigmas[0]), sigmas, on_step)
    # The host takes what comes back for free of noise; at the last sigma it is still in the variance-exploding scale.
    x = x / (1 + sigmas[-1] ** 2).sqrt()
    mask = extra_args.get("denoise_mask")
    return x if mask is None else x * mask + model.latent_image * (1 - mask)


def _start_scale(model, sigma: Tensor) -> float | Tensor:
    """What pure noise lacks to be a latent of the published scheduler at its first timestep.

    The host starts from noise * sigma below the model's largest sigma, because it expects a picture underneath. Where
    there is none the published start is noise * sqrt(1 + sigma^2) (comfyui: `EPS.noise_scaling`).
    """
    picture = getattr(model, "latent_image", None)
    sigma_max = float(model.inner_model.inner_model.model_sampling.sigma_max)
    at_the_top = float(sigma) >= sigma_max or abs(float(sigma) - sigma_max) <= 1e-5 * sigma_max
    if at_the_top or (picture is not None and bool(picture.any())):
        return 1.0
    return (1 + sigma**2).sqrt() / sigma
