"""Autoencoder weights to the host's VAE."""

from __future__ import annotations

import comfy.diffusers_convert
import comfy.sd
import torch
from torch import Tensor, nn

from ...blipdiff_impl.errors import CheckpointError
from ...blipdiff_impl.stable_diffusion.config import VAEConfig
from .weights import load_all, require_exact, set_group_count

_HOST_GROUPS = 32


def load_vae(weights: dict[str, Tensor], config: VAEConfig) -> comfy.sd.VAE:
    """The host's VAE around these weights, in the precision that the host chooses.

    Args:
        weights: by diffusers' names.

    Raises:
        CheckpointError: a key is missing, left over or of another shape, or the host cannot build this size.
    """
    _require_buildable(config)
    weights = comfy.diffusers_convert.convert_vae_state_dict(weights)
    if config.block_out_channels[0] % _HOST_GROUPS == 0:
        vae = comfy.sd.VAE(sd=weights, config=_host_config(config, config.block_out_channels[0]))
        have = _network(vae).state_dict().keys()
        require_exact(sorted(have - weights.keys()), sorted(weights.keys() - have), "VAE")
    else:
        vae = _narrow_vae(weights, config)
    set_group_count(_network(vae), config.norm_num_groups)
    return vae


def _network(vae: comfy.sd.VAE) -> nn.Module:
    network = vae.first_stage_model
    assert network is not None  # only a VAE made without a configuration has none
    return network


def _require_buildable(config: VAEConfig) -> None:
    channels = config.block_out_channels
    if len(channels) != 4 or any(c % channels[0] for c in channels):
        raise CheckpointError(
            f"This model's VAE has {list(channels)} channels. ComfyUI takes one latent pixel for 8x8 picture pixels, "
            "so a VAE has four levels, each with a multiple of the first level's channels."
        )


def _host_config(config: VAEConfig, first_channels: int) -> dict:
    channels = config.block_out_channels
    ddconfig = {
        "double_z": True,
        "z_channels": config.latent_channels,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": first_channels,
        "ch_mult": [c // channels[0] for c in channels],
        "num_res_blocks": config.layers_per_block,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    return {"params": {"ddconfig": ddconfig, "embed_dim": config.latent_channels}}


def _narrow_vae(weights: dict[str, Tensor], config: VAEConfig) -> comfy.sd.VAE:
    """A VAE with fewer channels than the host's 32 groups allow: built wide, then every layer takes its real size."""
    host_config = _host_config(config, _HOST_GROUPS)
    unused = comfy.sd.AutoencoderKL(**host_config["params"]).state_dict()  # without weights the host logs each name
    vae = comfy.sd.VAE(sd=unused, config=host_config)
    for name, layer in _network(vae).named_modules():
        if isinstance(layer, nn.Conv2d | nn.GroupNorm) and f"{name}.weight" in weights:
            _resize(layer, weights[f"{name}.weight"].shape)
    load_all(_network(vae), weights, "VAE", vae.patcher)
    vae.size = None  # measured again below, at the real size
    vae.model_size()
    return vae


def _resize(layer: nn.Conv2d | nn.GroupNorm, shape: torch.Size) -> None:
    """Give a layer uninitialised weights of another shape, `[out, in, height, width]` or `[channels]`."""
    layer.weight = nn.Parameter(layer.weight.new_empty(shape), requires_grad=False)
    assert layer.bias is not None  # no layer of this VAE goes without
    layer.bias = nn.Parameter(layer.bias.new_empty(shape[:1]), requires_grad=False)
    if isinstance(layer, nn.GroupNorm):
        layer.num_channels = shape[0]
    else:
        layer.out_channels, layer.in_channels = shape[:2]
