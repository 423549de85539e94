"""Copies of the host's UNet and text encoder that gradients can flow through.

The host's own weights are inference tensors and must not change; its text model adds in place. So the UNet is built
again from its sizes, around float32 copies of the weights as they are with all patches (LoRAs) of the MODEL; of the
text encoder only the weights are taken. Attention patches and hooks of other nodes do not act while training.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import comfy.lora
import comfy.ops
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .....blipdiff_impl.attention.probabilities import split_heads
from .....blipdiff_impl.blip_diffusion.finetuning.text import FrozenTextEncoder
from .....blipdiff_impl.errors import SubjectError

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP

UNET = "diffusion_model."
_TEXT = "clip_l.transformer.text_model."
_FEW = 1024  # queries of a layer; the probabilities of 4096 would take gigabytes


def effective_weights(patcher: ModelPatcher, prefix: str, device: torch.device) -> Iterator[tuple[str, Tensor]]:
    """(name without the prefix, float32 weight with the patcher's patches), one after the other on a device.

    The tensors are new ones: nothing of the host's changes with them. Call it outside of inference mode.
    """
    for key, (stored, *patches) in patcher.get_key_patches(prefix).items():
        weight, convert = stored
        weight = convert(weight.detach().to(device, torch.float32, copy=True), inplace=True)
        if patches:
            weight = comfy.lora.calculate_weight(patches, weight, key)
        yield key.removeprefix(prefix), weight.clone() if weight.is_inference() else weight


def copy_unet(model: ModelPatcher, device: torch.device) -> nn.Module:
    """The UNet of a MODEL with the weights that it samples with, float32, as plain layers without the host's casts."""
    original = model.model.diffusion_model
    config = {**model.model.model_config.unet_config, "dtype": torch.float32}
    unet = type(original)(**config, device="meta", operations=comfy.ops.disable_weight_init)
    unet.load_state_dict(dict(effective_weights(model, UNET, device)), strict=True, assign=True)
    for copied, norm in zip(_group_norms(unet), _group_norms(original), strict=True):
        copied.num_groups = norm.num_groups
    return unet.eval()


def predict_with(unet: nn.Module):
    """`predict(x_t, t, context) -> eps` of such a copy."""
    attention = _attend_on_cpu if next(unet.parameters()).device.type == "cpu" else _attend_fused

    def predict(x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        # The host writes into these options, so every call has its own.
        options = {"optimized_attention_override": attention}
        return unet(x, t, context=context, transformer_options=options)

    return predict


def copy_text_encoder(clip: CLIP, device: torch.device) -> FrozenTextEncoder:
    """The text encoder of a CLIP with its patches and its clip skip, float32."""
    transformer = clip.cond_stage_model.clip_l.transformer
    layers = transformer.text_model.encoder.layers
    skip = 0 if clip.layer_idx is None or -clip.layer_idx > len(layers) else -1 - clip.layer_idx
    if skip < 0:
        raise SubjectError(f"CLIP Set Last Layer counts from the end (-1, -2, ...); {clip.layer_idx} cannot be used.")
    weights = dict(effective_weights(clip.patcher, _TEXT, device))
    return FrozenTextEncoder(weights, layers[0].self_attn.heads, skip, layers[0].mlp.activation)


def _group_norms(unet: nn.Module) -> list[nn.GroupNorm]:
    return [module for module in unet.modules() if isinstance(module, nn.GroupNorm)]


def _attend_fused(function, q: Tensor, k: Tensor, v: Tensor, heads: int, *arguments, **options) -> Tensor:
    """Attention of `[B, L, heads * d]` by PyTorch's fused kernels, which keep no probabilities for the backward."""
    q, k, v = (split_heads(tensor, heads) for tensor in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def _attend_on_cpu(function, q: Tensor, k: Tensor, v: Tensor, heads: int, *arguments, **options) -> Tensor:
    """The same by two products and a softmax: with gradients the faster way on CPUs while probabilities are few."""
    if q.shape[1] > _FEW:
        return _attend_fused(function, q, k, v, heads)
    q, k, v = (split_heads(tensor, heads) for tensor in (q, k, v))
    probabilities = (q * q.shape[-1] ** -0.5 @ k.mT).softmax(-1)
    return (probabilities @ v).transpose(1, 2).flatten(2)
