"""Inversion of a picture through the host's model calls: its LoRAs, hooks, memory and cancel act as in sampling."""

from __future__ import annotations

from typing import TYPE_CHECKING

import comfy.sample
import comfy.samplers
import latent_preview
import torch
from torch import Tensor

from .....blipdiff_impl.blip_diffusion.editing.inversion import METHODS, invert
from .....blipdiff_impl.errors import SubjectError
from .....blipdiff_impl.prompts.words import compose_edit
from ...attention import attention_blocks
from ...conditioning_tags import require_prompt_width
from ...prompt_rows import require_stable_diffusion
from ..prompt import point_out_brackets
from .latents import require_latent
from .trajectory import INVERSION_KEY, Trajectory

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP

SCHEDULERS = list(comfy.samplers.SCHEDULER_NAMES)
__all__ = ["METHODS", "SCHEDULERS", "invert_latent"]


def invert_latent(
    model: ModelPatcher,
    clip: CLIP,
    latent: dict,
    *,
    source_category: str,
    prompt: str,
    steps: int,
    scheduler: str,
    method: str,
    repeat: int,
) -> dict:
    """The LATENT of the noise that regenerates a picture, with its `Trajectory` for an edit.

    Args:
        latent: the encoded picture.
        source_category, prompt: what it shows; see `compose_edit`.
        repeat: repetitions of the fixed-point equation in each step.

    Raises:
        SubjectError: an empty latent or one with NaN, an empty category, an unknown scheduler, or models of another
            family.
    """
    attention_blocks(model)
    require_stable_diffusion(clip)
    if scheduler not in SCHEDULERS:
        raise SubjectError(f"There is no scheduler {scheduler!r}; choose one of {', '.join(SCHEDULERS)}.")
    clean = require_latent(model, latent)
    if not clean.any():
        raise SubjectError(
            "This latent is empty, so there is no picture to invert. Connect VAE Encode; a picture that is still to be "
            "generated needs no inversion."
        )
    text = compose_edit(source_category, source_category, prompt, with_subject=False).source
    point_out_brackets(prompt)
    positive = clip.encode_from_tokens_scheduled(clip.tokenize(text))
    require_prompt_width(model, positive)
    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, scheduler, steps).float().cpu()
    states: list[Tensor] = []
    sampler = comfy.samplers.KSAMPLER(_sampler(states, repeat if method == METHODS[0] else 0))
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, positive)
    guider.set_cfg(1.0)
    rising = sigmas[:-1].flip(0)
    callback = latent_preview.prepare_callback(model, len(rising))
    noise = torch.zeros_like(clean)
    start = guider.sample(noise, clean, sampler, rising, callback=callback, seed=0)
    longer = comfy.samplers.calculate_sigmas(sampling, scheduler, steps + 1).float().cpu()
    shortened = torch.cat([longer[:-2], longer[-1:]])
    trajectory = Trajectory(sigmas, torch.stack(states[::-1]), clean, shortened, text, scheduler)
    return {**latent, "samples": start.cpu(), INVERSION_KEY: trajectory}


def _sampler(states: list[Tensor], repetitions: int):
    """A sampler function of the host that climbs from the picture to noise and leaves every state in `states`."""

    def ascend_noise(model, x, sigmas, extra_args=None, callback=None, disable=None) -> Tensor:
        def denoise(x: Tensor, sigma: float) -> Tensor:
            return model(x, sigma * x.new_ones(len(x)), **(extra_args or {}))

        def on_step(done: int, x: Tensor, denoised: Tensor) -> None:
            if callback is not None:
                level = sigmas[done - 1]
                callback({"x": x, "i": done - 1, "sigma": level, "sigma_hat": level, "denoised": denoised})

        found = invert(denoise, x, [0.0, *(float(sigma) for sigma in sigmas)], repetitions, on_step)
        states.extend(state.float().cpu() for state in found)
        return found[-1]

    return ascend_noise
