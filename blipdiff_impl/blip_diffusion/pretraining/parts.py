"""The parts of a model in pre-training: those that are frozen, and the names that each has in a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..image_tower import ImageTower
from ..subject_module import SubjectEncoderModule
from .initial import Initial

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL


class FrozenParts:
    """Tower and autoencoder on a device, outside of what is trained, stored or shared between processes."""

    def __init__(self, tower: ImageTower, vae: AutoencoderKL | None, scaling: float):
        self.tower = tower.requires_grad_(False).eval()
        self.vae = None if vae is None else vae.requires_grad_(False).eval()
        self._scaling = scaling

    def to(self, device: torch.device) -> FrozenParts:
        """Move them; returns itself."""
        self.tower.to(device)
        if self.vae is not None:
            self.vae.to(device)
        return self

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """The tower's rows before its last norm (which is trained), `[B, P, W]`."""
        rows = self.tower.pre_layernorm(self.tower.embeddings(pixels))
        return self.tower.encoder(inputs_embeds=rows).last_hidden_state

    @torch.no_grad()
    def latents(self, pictures: Tensor) -> Tensor:
        """Scaled latent means of pictures `[B, 3, S, S]` in -1..1."""
        assert self.vae is not None  # the first stage has none, and no latents
        return self.vae.encode(pictures).latent_dist.mean.float() * self._scaling


_NORM = "image_norm."
_TEXT = "text_encoder.clip."


def subject_encoder_part(initial: Initial, frozen: FrozenParts, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tower, trained norm, Q-Former and projection under canonical names."""
    own = {f"visual_encoder.{name}": tensor for name, tensor in frozen.tower.state_dict().items()}
    own |= {f"proj_layer.{name}": tensor for name, tensor in initial.encoder.proj_layer.state_dict().items()}
    own |= {name: tensor for name, tensor in state.items() if name.startswith(("qformer.", "proj_layer."))}
    for name, tensor in state.items():
        if name.startswith(_NORM):
            own[f"visual_encoder.post_layernorm.{name.removeprefix(_NORM)}"] = tensor
    with torch.device("meta"):
        module = SubjectEncoderModule(initial.config)
    module.load_state_dict({name: tensor.cpu() for name, tensor in own.items()}, strict=True, assign=True)
    return module.canonical_state_dict()


def text_encoder_part(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The text encoder under canonical names."""
    own = {name.removeprefix(_TEXT): tensor.cpu() for name, tensor in state.items() if name.startswith(_TEXT)}
    return {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in own.items()}


def unet_part(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The UNet under canonical names."""
    return {name.removeprefix("unet."): tensor.cpu() for name, tensor in state.items() if name.startswith("unet.")}
