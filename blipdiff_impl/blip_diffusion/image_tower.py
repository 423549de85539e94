"""The image tower: CLIP ViT-L/14 up to its penultimate block, then a LayerNorm of its own (docs/method.md 1.2).

The blocks are transformers' CLIP encoder. What differs from a stock CLIP stands here: no last block, no `ln_post`,
the extra norm, and the released tensor names with query, key and value in one matrix.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .config import ImageTowerConfig


class PatchEmbeddings(nn.Module):
    """Pixels to tokens: a class row, then one row per patch, with learned absolute positions added."""

    def __init__(self, config: ImageTowerConfig):
        super().__init__()
        width = config.hidden_size
        self.class_embedding = nn.Parameter(torch.zeros(1, 1, width))
        self.position_embedding = nn.Parameter(torch.zeros(1, config.num_tokens, width))
        self.patch_embedding = nn.Conv2d(3, width, config.patch_size, config.patch_size, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)  # [B, patches, width]
        rows = torch.cat([self.class_embedding.expand(len(pixels), -1, -1), patches], dim=1)
        return rows + self.position_embedding


class ImageTower(nn.Module):
    """Normalised pixels `[B, 3, S, S]` to features `[B, 1 + patches, width]`; nothing is pooled."""

    def __init__(self, config: ImageTowerConfig):
        super().__init__()
        from transformers import CLIPVisionConfig
        from transformers.models.clip.modeling_clip import CLIPEncoder

        settings: dict[str, Any] = {
            "hidden_size": config.hidden_size,
            "intermediate_size": config.intermediate_size,
            "num_hidden_layers": config.num_hidden_layers,
            "num_attention_heads": config.num_attention_heads,
            "image_size": config.image_size,
            "patch_size": config.patch_size,
            "layer_norm_eps": config.layer_norm_eps,
            "hidden_act": "quick_gelu",
            "attn_implementation": "sdpa",
        }
        clip: Any = CLIPVisionConfig(**settings)  # which CLIPEncoder takes, though it names the whole CLIP's
        self.embeddings = PatchEmbeddings(config)
        self.pre_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.encoder = CLIPEncoder(clip)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, pixels: Tensor) -> Tensor:
        rows = self.pre_layernorm(self.embeddings(pixels))
        return self.post_layernorm(self.encoder(inputs_embeds=rows).last_hidden_state)


# Released name of each piece of a block -> the name in transformers' CLIP encoder layer.
_FUSED, _SPLIT = "self_attn.qkv", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_OUT_FUSED, _OUT_SPLIT = "self_attn.projection", "self_attn.out_proj"


def split_attention(released: dict[str, Tensor]) -> dict[str, Tensor]:
    """Released tower tensors under the names of `ImageTower`: the fused matrix becomes three views of itself."""
    own = {}
    for name, tensor in released.items():
        if _FUSED in name:
            own.update({name.replace(_FUSED, part): piece for part, piece in zip(_SPLIT, tensor.chunk(3), strict=True)})
        else:
            own[name.replace(_OUT_FUSED, _OUT_SPLIT)] = tensor
    return own


def fuse_attention(own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `split_attention`: tensors of an `ImageTower` under their released names."""
    released = {}
    for name, tensor in own.items():
        if _SPLIT[0] in name:
            released[name.replace(_SPLIT[0], _FUSED)] = torch.cat([own[name.replace(_SPLIT[0], p)] for p in _SPLIT])
        elif not any(part in name for part in _SPLIT[1:]):
            released[name.replace(_OUT_SPLIT, _OUT_FUSED)] = tensor
    return released
