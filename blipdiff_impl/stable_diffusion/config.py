"""Sizes of the parts of a Stable Diffusion 1.5 model: one dataclass for each, defaults as released."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

# Picture pixels per latent pixel along one side, of every VAE that was released for Stable Diffusion; see also
# `VAEConfig.downscale`.
VAE_FACTOR = 8


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig:
    """The text encoder of Stable Diffusion 1.5 (CLIP-L): causal, QuickGELU."""

    vocab_size: int = 49408
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 77
    layer_norm_eps: float = 1e-5
    hidden_act: str = "quick_gelu"

    def to_transformers(self) -> dict:
        """Keyword arguments of `transformers.CLIPTextConfig`; the ids are those the tokenizer really uses."""
        return {
            **dataclasses.asdict(self),
            "projection_dim": self.hidden_size,
            "bos_token_id": 49406,
            "eos_token_id": 49407,
            "pad_token_id": 49407,
        }


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """The UNet of Stable Diffusion 1.5; `attention_levels` says which down blocks hold transformers."""

    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    attention_levels: tuple[bool, ...] = (True, True, True, False)
    cross_attention_dim: int = 768
    num_attention_heads: int = 8
    norm_num_groups: int = 32
    in_channels: int = 4
    out_channels: int = 4

    def to_diffusers(self) -> dict:
        """Keyword arguments of `diffusers.UNet2DConditionModel` (its `attention_head_dim` counts heads here)."""
        down = tuple("CrossAttnDownBlock2D" if has else "DownBlock2D" for has in self.attention_levels)
        up = tuple("CrossAttnUpBlock2D" if has else "UpBlock2D" for has in reversed(self.attention_levels))
        return {
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "block_out_channels": self.block_out_channels,
            "layers_per_block": self.layers_per_block,
            "down_block_types": down,
            "up_block_types": up,
            "cross_attention_dim": self.cross_attention_dim,
            "attention_head_dim": self.num_attention_heads,
            "norm_num_groups": self.norm_num_groups,
            "norm_eps": 1e-5,
            "act_fn": "silu",
            "flip_sin_to_cos": True,
            "freq_shift": 0,
        }


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """The KL autoencoder of Stable Diffusion: each level but the last halves the picture."""

    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = 4
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215

    @property
    def downscale(self) -> int:
        """Picture pixels per latent pixel along one side."""
        return 2 ** (len(self.block_out_channels) - 1)

    def to_diffusers(self) -> dict:
        """Keyword arguments of `diffusers.AutoencoderKL`."""
        levels = len(self.block_out_channels)
        return {
            **dataclasses.asdict(self),
            "in_channels": 3,
            "out_channels": 3,
            "down_block_types": ("DownEncoderBlock2D",) * levels,
            "up_block_types": ("UpDecoderBlock2D",) * levels,
            "act_fn": "silu",
        }
