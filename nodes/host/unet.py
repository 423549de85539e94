"""UNet weights to the host's MODEL.

The host's own loader knows the released size from a table of shapes; its SD1.5 model class takes any size. Both sizes
go through that class here, with the host's key conversion and its rules for precision and memory, so that a missing
key is an error for both.
"""

from __future__ import annotations

import comfy.model_management as mm
import comfy.model_patcher
import comfy.supported_models
import comfy.utils
from torch import Tensor, dtype

from ...blipdiff_impl.errors import CheckpointError
from ...blipdiff_impl.stable_diffusion.config import UNetConfig
from .weights import load_all, patcher_class, set_group_count


def load_unet(
    weights: dict[str, Tensor], config: UNetConfig, precision: dtype | None = None, disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    """The host's MODEL around these weights.

    Args:
        weights: by diffusers' names.
        precision: of the weights in memory; None leaves it to the host.
        disable_dynamic: ask for a patcher that holds its weights itself, as the host does for hooks and training.

    Raises:
        CheckpointError: a key is missing, left over or of another shape, or the host cannot build this size.
    """
    model_config = comfy.supported_models.SD15(host_config(config))
    model_config.unet_config["num_heads"] = config.num_attention_heads  # the class overwrites it with SD1.5's 8
    precision = precision or _host_precision(weights, model_config)
    device, offload_device = mm.get_torch_device(), mm.unet_offload_device()
    cast = mm.unet_manual_cast(precision, device, model_config.supported_inference_dtypes)
    model_config.set_inference_dtype(precision, cast)
    weights = _rename(weights, model_config.unet_config)
    model = model_config.get_model(weights, "")
    set_group_count(model.diffusion_model, config.norm_num_groups)
    patcher = patcher_class(disable_dynamic)(model, load_device=device, offload_device=offload_device)
    if not mm.is_device_cpu(offload_device):
        model.to(offload_device)
    load_all(model.diffusion_model, weights, "UNet", patcher)
    return patcher


def host_config(config: UNetConfig) -> dict:
    """The sizes in the host's words, with the keys that its own detection finds for SD1.5.

    Raises:
        CheckpointError: channels that the host's class cannot express.
    """
    channels, blocks = config.block_out_channels, config.layers_per_block
    if channels[0] % 32 or any(c % channels[0] for c in channels):
        raise CheckpointError(
            f"This model's UNet has {list(channels)} channels. ComfyUI builds only UNets whose first level has a "
            "multiple of 32 channels and whose other levels have a multiple of the first."
        )
    return {
        "image_size": 32,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "model_channels": channels[0],
        "channel_mult": [c // channels[0] for c in channels],
        "num_res_blocks": [blocks] * len(channels),
        "transformer_depth": [int(has) for has in config.attention_levels for _ in range(blocks)],
        "transformer_depth_middle": 1,
        "transformer_depth_output": [int(has) for has in config.attention_levels for _ in range(blocks + 1)],
        "context_dim": config.cross_attention_dim,
        "num_heads": config.num_attention_heads,
        "use_checkpoint": False,
        "use_spatial_transformer": True,
        "use_linear_in_transformer": False,
        "legacy": False,
        "adm_in_channels": None,
        "use_temporal_attention": False,
        "use_temporal_resblock": False,
    }


def _host_precision(weights: dict[str, Tensor], model_config) -> dtype:
    return mm.unet_dtype(
        model_params=comfy.utils.calculate_parameters(weights),
        supported_dtypes=list(model_config.supported_inference_dtypes),
        weight_dtype=comfy.utils.weight_dtype(weights),
    )


def _rename(weights: dict[str, Tensor], unet_config: dict) -> dict[str, Tensor]:
    """diffusers' names to the host's; a name that the host does not know stays, to be reported as left over."""
    names = comfy.utils.unet_to_diffusers(unet_config)
    return {names.get(name, name): tensor for name, tensor in weights.items()}
