"""UNet, autoencoder and schedulers of Stable Diffusion 1.5 as diffusers' own classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..settings import require_in_range, require_one_of
from .config import UNetConfig, VAEConfig
from .noise import TRAIN_TIMESTEPS

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

_Network = TypeVar("_Network", bound=nn.Module)

SCHEDULERS = ("pndm", "ddim")


class Scheduler(Protocol):
    """What generation asks of a scheduler of diffusers whose steps are set."""

    timesteps: Tensor
    """`[evaluations]`, from noise to picture."""

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor) -> Any:
        """From predicted noise and latents `[N, 4, h, w]` to an object whose `prev_sample` has the next latents."""
        ...


def make_scheduler(name: str, steps: int) -> Scheduler:
    """diffusers' scheduler with the release's settings (docs/method.md 1.6: scaled-linear betas, offset 0).

    Raises:
        SubjectError: another name than "pndm" or "ddim", or more steps than the noise has levels.
    """
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from diffusers.schedulers.scheduling_pndm import PNDMScheduler

    require_one_of("scheduler", name, SCHEDULERS)
    require_in_range("steps", steps, 1, TRAIN_TIMESTEPS, "the release uses 50")
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "set_alpha_to_one": False}
    if name == "pndm":
        timeline = PNDMScheduler(**betas, skip_prk_steps=True)
    else:
        timeline = DDIMScheduler(**betas, clip_sample=False)
    timeline.set_timesteps(steps)
    return cast(Scheduler, timeline)  # annotated also with what it is before its steps are set


def build_unet(config: UNetConfig, tensors: dict[str, Tensor]) -> UNet2DConditionModel:
    """diffusers' `UNet2DConditionModel` around these tensors, in evaluation mode, without gradients."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    return _build(UNet2DConditionModel, config.to_diffusers(), tensors, "UNet")


def build_vae(config: VAEConfig, tensors: dict[str, Tensor]) -> AutoencoderKL:
    """diffusers' `AutoencoderKL` around these tensors, in evaluation mode, without gradients."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    return _build(AutoencoderKL, config.to_diffusers(), tensors, "VAE")


def _build(kind: Callable[..., _Network], settings: dict, tensors: dict[str, Tensor], name: str) -> _Network:
    with torch.device("meta"):
        module = kind(**settings)
    try:
        module.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"The {name}'s weights do not fit its configuration: {error}") from error
    return module.requires_grad_(False).eval()
