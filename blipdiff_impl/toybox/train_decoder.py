"""The autoencoder's decoder goes on from the embedded model, on pictures of 96 and 192 pixels; its encoder stays.

So the latent space stays too, and whatever was trained on it. Latents come from the bank of scenes, their pictures are
rendered again; windows of large ones cost no more than small pictures.
"""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import Tensor

from ..blip_diffusion.pipeline import SubjectPipeline
from ..stable_diffusion.config import VAE_FACTOR
from ..toy_world.bank import CACHE
from ..training.optimisers import fast_type
from . import scene_bank
from .train_vae import DECODER_NOISE, reconstruction_loss
from .training import Optimiser, keep, learning_rate, resume

CHECKPOINT = CACHE / "large_decoder.pt"
WINDOW = 12  # latent cells a side
WINDOWS = 2  # of each large picture

log = logging.getLogger(__name__)


def train_decoder(minutes: float, large: int = 5, small: int = 4, rate: float = 6e-4, seed: int = 12) -> None:
    """Train for `minutes` in all (resumed runs count) and write `large_decoder.pt`.

    Args:
        large: pictures of 192 pixels in a step, two windows of each; small: whole pictures of 96.
    """
    pipeline = SubjectPipeline.from_checkpoint("toybox")
    vae, scaling = pipeline.vae.to(fast_type()), pipeline.config.vae.scaling_factor
    vae.decoder.requires_grad_(True)
    vae.post_quant_conv.requires_grad_(True)
    optimiser = Optimiser(vae.named_parameters(), adam_only=("conv_in", "conv_out", "quant_conv"), decay=0.995)
    clock = resume(optimiser, CHECKPOINT)
    total = 0.0
    while clock.spent < minutes * 60:
        rng = np.random.default_rng((seed, optimiser.steps))
        torch.manual_seed(int(rng.integers(2**31)))
        parts = [*_pictures("large", large, rng), *_pictures("small", small, rng)]
        latents, rgb, mask = (torch.stack(tensors) for tensors in zip(*parts, strict=True))
        latents = latents + torch.randn_like(latents) * torch.rand(len(latents), 1, 1, 1) * DECODER_NOISE
        output = vae.decode((latents / scaling).to(fast_type())).sample.float()
        loss = reconstruction_loss(output, rgb, mask)
        loss.backward()
        optimiser.clip(1.0)
        optimiser.step(learning_rate(clock.spent / (minutes * 60), rate))
        total += float(loss.detach())
        if optimiser.steps % 50 == 0:
            log.info("step %d, %.1f min, loss %.4f", optimiser.steps, clock.spent / 60, total / 50)
            total = 0.0
        if clock.checkpoint_due() or clock.spent >= minutes * 60:
            keep(optimiser, clock.spent, CHECKPOINT)


def averaged_decoder() -> dict[str, Tensor]:
    """The decoder's averaged weights by the autoencoder's names, from the training's checkpoint."""
    return torch.load(CHECKPOINT, weights_only=True)["optimiser"]["average"]


def _pictures(name: str, count: int, rng: np.random.Generator) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Scaled latents [4, 12, 12], pictures [3, 96, 96] in -1..1 and masks [1, 96, 96] from the bank."""
    stored, cell, drawn = scene_bank.open_shape(name)["latents"], VAE_FACTOR, []
    for index in rng.choice(scene_bank.ready(name), count, replace=False):
        scene = scene_bank.scene_of(name, int(index))
        free = stored.shape[-1] - WINDOW
        for y, x in rng.integers(0, free + 1, size=(WINDOWS if free else 1, 2)):
            rows, columns = slice(cell * y, cell * (y + WINDOW)), slice(cell * x, cell * (x + WINDOW))
            rgb = torch.from_numpy(scene.picture[rows, columns].copy()).movedim(-1, 0).float() / 127.5 - 1
            mask = torch.from_numpy(scene.masks[:, rows, columns].max(axis=0))[None].float() / 255
            latents = torch.from_numpy(stored[index, :, y : y + WINDOW, x : x + WINDOW].astype(np.float32))
            drawn.append((latents, rgb, mask))
    return drawn
