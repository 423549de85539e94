"""The embedded model as what an MS-Diffusion adapter is trained on: everything of it stays as it is."""

from __future__ import annotations

import torch
from torch import Tensor

from ..blip_diffusion.pipeline import SubjectPipeline
from ..ms_diffusion.config import AdapterConfig
from ..ms_diffusion.pretraining.base import config_for
from ..ms_diffusion.pretraining.settings import MSSettings
from ..prompts.tokenizers import CLIP_END
from ..stable_diffusion.config import VAE_FACTOR
from ..toy_world import prompts
from .vision import penultimate_states


class ToyBase:
    """See `ms_diffusion.pretraining.base.Base`; the picture encoder is the image tower, before its own norm."""

    def __init__(self, model: str = "toybox"):
        self._pipeline = SubjectPipeline.from_checkpoint(model)
        self._tower = self._pipeline.encoder.module.visual_encoder.requires_grad_(False)
        self.unet = self._pipeline.unet
        self.image_side = self._pipeline.encoder.image_size
        self.channels, self.factor = self._pipeline.config.vae.latent_channels, VAE_FACTOR
        text = self._pipeline.text_encoder.clip
        self.text_norm = getattr(text, "text_model", text).final_layer_norm

    def to(self, device: torch.device) -> ToyBase:
        pipeline = self._pipeline
        for network in (self._tower, pipeline.unet, pipeline.vae, pipeline.text_encoder):
            network.to(device)
        return self

    def adapter_config(self, settings: MSSettings) -> AdapterConfig:
        sizes = self._pipeline.config
        return config_for(self.unet, settings, sizes.image_tower.hidden_size, sizes.text_encoder.hidden_size)

    @torch.no_grad()
    def prompts(self, ids: Tensor) -> tuple[Tensor, None]:
        return self._pipeline.text_encoder(ids[:, 0]), None

    @torch.no_grad()
    def phrases(self, ids: Tensor) -> Tensor:
        # twelve kinds: hardly any phrase of a batch is new
        few, which = ids.unique(dim=0, return_inverse=True)
        ends = (few == CLIP_END).int().argmax(dim=1)
        return self._pipeline.text_encoder(few)[torch.arange(len(few), device=ids.device), ends][which]

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        return penultimate_states(self._tower, pixels)

    @torch.no_grad()
    def columns(self, vectors: Tensor, ids: Tensor) -> Tensor:
        """In the prompt `a [vectors] PHRASE`."""
        count, queries = vectors.shape[:2]
        room = ids.new_full((count, queries), CLIP_END)
        article = ids.new_full((count, 1), prompts.token_ids("a")[0])
        row = torch.cat([ids[:, :1], article, room, ids[:, 1:]], dim=1)[:, : ids.shape[1]]
        places = torch.arange(2, 2 + queries, device=ids.device).expand(count, -1)
        return self._pipeline.text_encoder(row, places, vectors)[:, 2 : 2 + queries]

    @torch.no_grad()
    def latents(self, pictures: Tensor) -> Tensor:
        vae = self._pipeline.vae
        return vae.encode(pictures).latent_dist.mean * self._pipeline.config.vae.scaling_factor

    @torch.no_grad()
    def pictures(self, latents: Tensor) -> Tensor:
        drawn = self._pipeline.vae.decode(latents / self._pipeline.config.vae.scaling_factor).sample
        return (drawn.permute(0, 2, 3, 1) + 1) / 2
