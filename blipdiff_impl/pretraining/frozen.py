"""What is never trained: the image tower before its last norm, and the autoencoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..image_tower import ImageTower


class FrozenParts:
    """Tower and autoencoder on a device, outside of what is trained, stored or shared between processes."""

    def __init__(self, tower: ImageTower, vae: nn.Module | None, scaling: float):
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
        return self.vae.encode(pictures).latent_dist.mean.float() * self._scaling
