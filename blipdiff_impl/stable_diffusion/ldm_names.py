"""Tensor names of the UNet in single-file checkpoints: those of the original code (LDM), which numbers blocks in a row.

The numbering is that of `UNetModel` in CompVis/latent-diffusion, ldm/modules/diffusionmodules/openaimodel.py.
"""

from __future__ import annotations

from .config import UNetConfig
from .unet_shapes import unet_shapes

_ENDS_AND_MIDDLE = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
IN_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def canonical_unet_names(config: UNetConfig) -> dict[str, str]:
    """LDM name -> canonical (diffusers) name, for every tensor of a UNet of these sizes."""
    modules = _modules(config)
    names = {}
    for name in unet_shapes(config):
        module = next(module for module in modules if name.startswith(f"{module}."))
        inner = name.removeprefix(f"{module}.")
        if ".resnets." in module:  # transformers are named alike inside
            layer, _, kind = inner.partition(".")
            inner = f"{IN_RESNET[layer]}.{kind}"
        names[f"{modules[module]}.{inner}"] = name
    return names


def _modules(config: UNetConfig) -> dict[str, str]:
    """Canonical name -> LDM name, for the modules of every level, whether it has all of them or not.

    A level takes `layers_per_block + 1` numbers among the down blocks and among the up blocks: the last of them is the
    downsampler in the first, and one more layer in the second, with the upsampler behind it.
    """
    modules = dict(_ENDS_AND_MIDDLE)
    layers, levels = config.layers_per_block, len(config.block_out_channels)
    for level in range(levels):
        down, up = f"down_blocks.{level}", f"up_blocks.{level}"
        first = level * (layers + 1)
        for layer in range(layers):
            modules[f"{down}.resnets.{layer}"] = f"input_blocks.{first + layer + 1}.0"
            modules[f"{down}.attentions.{layer}"] = f"input_blocks.{first + layer + 1}.1"
        for layer in range(layers + 1):
            modules[f"{up}.resnets.{layer}"] = f"output_blocks.{first + layer}.0"
            modules[f"{up}.attentions.{layer}"] = f"output_blocks.{first + layer}.1"
        behind = 2 if config.attention_levels[levels - 1 - level] else 1
        modules[f"{down}.downsamplers.0.conv"] = f"input_blocks.{first + layers + 1}.0.op"
        modules[f"{up}.upsamplers.0.conv"] = f"output_blocks.{first + layers}.{behind}.conv"
    return modules
