"""Tensor names and shapes of the VAE, as diffusers' AutoencoderKL names them (new attention names)."""

from __future__ import annotations

from ..weights.shapes import Shapes, conv, linear, norm, resnet, under
from .config import VAEConfig


def vae_shapes(config: VAEConfig) -> Shapes:
    """248 tensors at released size."""
    latent = config.latent_channels
    return {
        **under("encoder", _encoder(config)),
        **under("decoder", _decoder(config)),
        **conv("quant_conv", 2 * latent, 2 * latent, 1),
        **conv("post_quant_conv", latent, latent, 1),
    }


def _encoder(config: VAEConfig) -> Shapes:
    channels = config.block_out_channels
    return {
        **conv("conv_in", channels[0], 3, 3),
        **_levels("down_blocks", channels, config.layers_per_block, "downsamplers"),
        **_middle(channels[-1]),
        **norm("conv_norm_out", channels[-1]),
        **conv("conv_out", 2 * config.latent_channels, channels[-1], 3),
    }


def _decoder(config: VAEConfig) -> Shapes:
    channels = config.block_out_channels[::-1]
    return {
        **conv("conv_in", channels[0], config.latent_channels, 3),
        **_middle(channels[0]),
        **_levels("up_blocks", channels, config.layers_per_block + 1, "upsamplers"),
        **norm("conv_norm_out", channels[-1]),
        **conv("conv_out", 3, channels[-1], 3),
    }


def _levels(name: str, channels: tuple[int, ...], layers: int, resampler: str) -> Shapes:
    shapes: Shapes = {}
    previous = channels[0]
    for level, width in enumerate(channels):
        block: Shapes = {}
        for layer in range(layers):
            block |= under(f"resnets.{layer}", resnet(previous if layer == 0 else width, width))
        if level != len(channels) - 1:
            block |= conv(f"{resampler}.0.conv", width, width, 3)
        shapes |= under(f"{name}.{level}", block)
        previous = width
    return shapes


def _middle(width: int) -> Shapes:
    attention = {**norm("group_norm", width)}
    for name in ("to_q", "to_k", "to_v", "to_out.0"):
        attention |= linear(name, width, width)
    block = {
        **under("resnets.0", resnet(width, width)),
        **under("attentions.0", attention),
        **under("resnets.1", resnet(width, width)),
    }
    return under("mid_block", block)
