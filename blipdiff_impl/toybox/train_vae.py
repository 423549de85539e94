"""Trains the autoencoder: first on crops, then on whole pictures; at last, on request, the decoder alone.

Pixel losses only, the subject counting double. The latent channels are scaled afterwards (`fold_latent_scale`), so
that Stable Diffusion's factor 0.18215 brings every one of them to unit spread.
"""

from __future__ import annotations

import logging

import numpy as np
import torch
import torch.nn.functional as F

from ..stable_diffusion.config import VAEConfig
from ..toy_world.bank import CACHE
from ..toy_world.render import PICTURE_SIZE, render_picture
from ..toy_world.world import BACKGROUND_NAMES, HELD_OUT_SEED, subject_from_seed
from ..training.optimisers import fast_type
from .training import Optimiser, keep, learning_rate, resume, save_atomically

VAE_CONFIG = VAEConfig(block_out_channels=(16, 32, 64, 96), layers_per_block=1, norm_num_groups=4)
CROP = 64
WHOLE_FROM = 0.8
KL_WEIGHT = 1e-3
DECODER_NOISE = 0.15
"""Largest spread of the noise on scaled latents while the decoder trains alone: the UNet's latents are never exact."""

log = logging.getLogger(__name__)


def build_vae():
    """A new AutoencoderKL whose residual blocks start as identities."""
    from diffusers import AutoencoderKL
    from diffusers.models.resnet import ResnetBlock2D

    vae = AutoencoderKL(**VAE_CONFIG.to_diffusers())
    for module in vae.modules():
        if isinstance(module, ResnetBlock2D):
            torch.nn.init.zeros_(module.conv2.weight)
            torch.nn.init.zeros_(module.conv2.bias)
    return vae


def pictures(rng: np.random.Generator, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Fresh training pictures [count, 3, 96, 96] in -1..1 and subject masks [count, 1, 96, 96] in 0..1."""
    rendered = [
        render_picture(
            subject_from_seed(int(rng.integers(HELD_OUT_SEED))), BACKGROUND_NAMES[rng.integers(12)], rng, bank=True
        )
        for _ in range(count)
    ]
    rgb = torch.from_numpy(np.stack([r.picture for r in rendered])).permute(0, 3, 1, 2).float() / 127.5 - 1
    return rgb, torch.from_numpy(np.stack([r.mask for r in rendered]))[:, None].float() / 255


def crop(rgb: torch.Tensor, mask: torch.Tensor, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Another random window of each picture; offsets are multiples of nothing, so cells see every alignment."""
    offsets = rng.integers(0, PICTURE_SIZE - CROP + 1, size=(len(rgb), 2))
    windows = [(i, slice(None), slice(y, y + CROP), slice(x, x + CROP)) for i, (y, x) in enumerate(offsets)]
    return torch.stack([rgb[w] for w in windows]), torch.stack([mask[w] for w in windows])


def reconstruction_loss(output: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """L1, L1 of differences, L1 after 4x pooling and squared error; the subject counts double."""
    weight = 1 + mask
    error = output - target
    loss = (weight * (error.abs() + 0.5 * error.square())).mean()
    for axis in (2, 3):
        loss = loss + 0.5 * (weight.narrow(axis, 1, weight.shape[axis] - 1) * error.diff(dim=axis).abs()).mean()
    return loss + 0.5 * (F.avg_pool2d(weight, 4) * F.avg_pool2d(error, 4).abs()).mean()


def train_vae(minutes: float, decoder_only: bool = False, batch: int = 16, rate: float = 2e-3, seed: int = 1) -> None:
    """Train for `minutes` in all (resumed runs count) and write `vae.pt`, or `vae_decoder.pt` for the decoder alone.

    Decoder alone: the encoder comes from `vae_folded.pt` and stays; latents already computed remain valid.
    """
    vae = build_vae()
    path = CACHE / ("vae_decoder.pt" if decoder_only else "vae.pt")
    if decoder_only:
        vae.load_state_dict(torch.load(CACHE / "vae_folded.pt", weights_only=True))
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    vae.to(fast_type())
    optimiser = Optimiser(vae.named_parameters(), adam_only=("conv_in", "conv_out", "quant_conv"))
    clock = resume(optimiser, path)
    loss_sum = 0.0
    while clock.spent < minutes * 60:
        progress = clock.spent / (minutes * 60)
        loss = _train_step(vae, optimiser, progress, decoder_only, batch, rate, seed)
        loss_sum += loss
        if optimiser.steps % 100 == 0:
            log.info("step %d, %.1f min, loss %.4f", optimiser.steps, clock.spent / 60, loss_sum / 100)
            loss_sum = 0.0
        if clock.checkpoint_due():
            keep(optimiser, clock.spent, path)
    keep(optimiser, clock.spent, path)


def _train_step(vae, optimiser, progress, decoder_only, batch, rate, seed) -> float:
    rng = np.random.default_rng((seed, optimiser.steps, int(decoder_only)))
    torch.manual_seed(int(rng.integers(2**31)))
    whole = decoder_only or progress > WHOLE_FROM
    rgb, mask = pictures(rng, batch // 2 if whole else batch)
    if not whole:
        rgb, mask = crop(rgb, mask, rng)
    if decoder_only:
        latent, divergence = _disturbed(vae, rgb), 0.0
    else:
        latent, divergence = _sampled(vae, rgb)
    output = vae.decode(latent.to(fast_type())).sample.float()
    loss = reconstruction_loss(output, rgb, mask) + KL_WEIGHT * divergence
    loss.backward()
    optimiser.clip(1.0)
    optimiser.step(learning_rate(progress, rate))
    return float(loss.detach())


def _sampled(vae, rgb: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents drawn from the posterior, and its divergence from a unit normal (mean over elements)."""
    mean, log_variance = vae.quant_conv(vae.encoder(rgb.to(fast_type()))).float().chunk(2, dim=1)
    log_variance = log_variance.clamp(-12, 6)
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    return mean + torch.randn_like(mean) * (0.5 * log_variance).exp(), divergence


@torch.no_grad()
def _disturbed(vae, rgb: torch.Tensor) -> torch.Tensor:
    """Means of the posterior with noise of a random spread, up to `DECODER_NOISE` on scaled latents."""
    mean = vae.quant_conv(vae.encoder(rgb.to(fast_type()))).float().chunk(2, dim=1)[0]
    spread = torch.rand(len(mean), 1, 1, 1) * DECODER_NOISE / VAE_CONFIG.scaling_factor
    return mean + torch.randn_like(mean) * spread


def averaged_vae():
    """The autoencoder with the moving average of its weights, float32, from the training's checkpoint."""
    vae = build_vae()
    vae.load_state_dict(torch.load(CACHE / "vae.pt", weights_only=True)["optimiser"]["average"])
    return vae.eval()


@torch.no_grad()
def fold_latent_scale(vae, seed: int = 2, count: int = 512) -> torch.Tensor:
    """Scale and shift the latent channels to mean 0 and spread 1/0.18215 inside the model; returns the old spreads."""
    rgb, _ = pictures(np.random.default_rng((seed, 5)), count)
    latents = torch.cat([vae.encode(part).latent_dist.mean for part in rgb.split(64)])
    mean, spread = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    gain = 1 / (VAE_CONFIG.scaling_factor * spread)
    # z' = gain * (z - mean): the decoder's 1x1 convolution undoes it, the log-variance grows by 2 log(gain).
    undo = vae.post_quant_conv
    undo.bias += (undo.weight[:, :, 0, 0] * mean).sum(dim=1)
    undo.weight /= gain[None, :, None, None]
    make, n = vae.quant_conv, len(gain)
    make.bias[:n] = (make.bias[:n] - mean) * gain
    make.weight[:n] *= gain[:, None, None, None]
    make.bias[n:] += 2 * gain.log()
    return spread


def fold_vae() -> None:
    """Fold the latent scales into the trained autoencoder and write `vae_folded.pt`; its encoder is final from here."""
    vae = averaged_vae()
    log.info("spread of the latent channels before: %s", fold_latent_scale(vae).tolist())
    save_atomically(vae.state_dict(), CACHE / "vae_folded.pt")
