"""Tensor names and shapes of the UNet, as diffusers' UNet2DConditionModel names them."""

from __future__ import annotations

from ..weights.shapes import Shapes, conv, linear, norm, resnet, under
from .config import UNetConfig


def unet_shapes(config: UNetConfig) -> Shapes:
    """686 tensors at released size."""
    channels = config.block_out_channels
    time_width = 4 * channels[0]
    return {
        **conv("conv_in", channels[0], config.in_channels, 3),
        **linear("time_embedding.linear_1", time_width, channels[0]),
        **linear("time_embedding.linear_2", time_width, time_width),
        **_way_down(config, time_width),
        **_middle(channels[-1], config.cross_attention_dim, time_width),
        **_way_up(config, time_width),
        **norm("conv_norm_out", channels[0]),
        **conv("conv_out", config.out_channels, channels[0], 3),
    }


def _way_down(config: UNetConfig, time_width: int) -> Shapes:
    shapes: Shapes = {}
    channels, last = config.block_out_channels, len(config.block_out_channels) - 1
    previous = channels[0]
    for level, width in enumerate(channels):
        block: Shapes = {}
        for layer in range(config.layers_per_block):
            block |= under(f"resnets.{layer}", resnet(previous if layer == 0 else width, width, time_width))
            if config.attention_levels[level]:
                block |= under(f"attentions.{layer}", _transformer(width, config.cross_attention_dim))
        if level != last:
            block |= conv("downsamplers.0.conv", width, width, 3)
        shapes |= under(f"down_blocks.{level}", block)
        previous = width
    return shapes


def _middle(width: int, context_width: int, time_width: int) -> Shapes:
    block = {
        **under("resnets.0", resnet(width, width, time_width)),
        **under("attentions.0", _transformer(width, context_width)),
        **under("resnets.1", resnet(width, width, time_width)),
    }
    return under("mid_block", block)


def _way_up(config: UNetConfig, time_width: int) -> Shapes:
    """Each up block takes one skip connection per layer, the last one from the level above."""
    shapes: Shapes = {}
    channels, levels = config.block_out_channels[::-1], config.attention_levels[::-1]
    last = len(channels) - 1
    previous = channels[0]
    for level, width in enumerate(channels):
        block: Shapes = {}
        for layer in range(config.layers_per_block + 1):
            skip = width if layer < config.layers_per_block else channels[min(level + 1, last)]
            inputs = (previous if layer == 0 else width) + skip
            block |= under(f"resnets.{layer}", resnet(inputs, width, time_width))
            if levels[level]:
                block |= under(f"attentions.{layer}", _transformer(width, config.cross_attention_dim))
        if level != last:
            block |= conv("upsamplers.0.conv", width, width, 3)
        shapes |= under(f"up_blocks.{level}", block)
        previous = width
    return shapes


def _transformer(width: int, context_width: int) -> Shapes:
    """One spatial transformer: self-attention, cross-attention to the text, gated feed-forward."""
    block = {
        **norm("norm1", width),
        **under("attn1", _attention(width, width)),
        **norm("norm2", width),
        **under("attn2", _attention(width, context_width)),
        **norm("norm3", width),
        **linear("ff.net.0.proj", 8 * width, width),
        **linear("ff.net.2", width, 4 * width),
    }
    return {
        **norm("norm", width),
        **conv("proj_in", width, width, 1),
        **under("transformer_blocks.0", block),
        **conv("proj_out", width, width, 1),
    }


def _attention(width: int, context_width: int) -> Shapes:
    return {
        **linear("to_q", width, width, bias=False),
        **linear("to_k", width, context_width, bias=False),
        **linear("to_v", width, context_width, bias=False),
        **linear("to_out.0", width, width),
    }
