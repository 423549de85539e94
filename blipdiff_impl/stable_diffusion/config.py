"""Sizes of a BLIP-Diffusion model: one dataclass per component, defaults as released.

A checkpoint carries its sizes as JSON, so the embedded model and the released one go through the same code.
Numbers that have no field here (activation functions, sampling betas) are the same for every model of the family.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field

from .errors import CheckpointError


@dataclass(frozen=True)
class ImageTowerConfig:
    """CLIP ViT-L/14 without its last block; QuickGELU, no bias in the patch embedding."""

    image_size: int = 224
    patch_size: int = 14
    hidden_size: int = 1024
    num_hidden_layers: int = 23
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    layer_norm_eps: float = 1e-5

    @property
    def num_tokens(self) -> int:
        """Rows of the tower's output: one per patch and one class row."""
        return (self.image_size // self.patch_size) ** 2 + 1


@dataclass(frozen=True)
class QFormerConfig:
    """BERT-base body with cross-attention in every layer and its own feed-forward for the query rows; exact GELU."""

    vocab_size: int = 30523
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    num_query_tokens: int = 16
    layer_norm_eps: float = 1e-12


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class UNetConfig:
    """The UNet of Stable Diffusion 1.5; `attention_levels` says which levels of the way down hold transformers."""

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


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of all components, and the side of the pictures the model was trained on, in pixels."""

    image_tower: ImageTowerConfig = field(default_factory=ImageTowerConfig)
    qformer: QFormerConfig = field(default_factory=QFormerConfig)
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    picture_size: int = 512

    def to_json(self) -> str:
        """One line of JSON that `from_json` reads back."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ModelConfig:
        """Read what `to_json` wrote.

        Raises:
            CheckpointError: the text is no JSON object, or has a field that this version does not know.
        """
        try:
            record = json.loads(text)
        except json.JSONDecodeError as error:
            raise CheckpointError(
                f"The model's configuration is not valid JSON ({error}). Convert the checkpoint again."
            ) from error
        return _from_record(cls, record, "configuration")


def _from_record(kind: type, record: object, where: str):
    """Build the dataclass `kind` from plain JSON values, checking names and types on the way down."""
    if not isinstance(record, dict):
        raise CheckpointError(f"The model's {where} should be a JSON object, but it is {record!r}.")
    defaults = {f.name: _default(f) for f in dataclasses.fields(kind)}
    if unknown := sorted(set(record) - set(defaults)):
        raise CheckpointError(
            f"The model's {where} has fields this version does not know: {', '.join(unknown)}. "
            "Update the pack, or convert the checkpoint again."
        )
    return kind(**{name: _typed(value, defaults[name], f"{where}.{name}") for name, value in record.items()})


def _default(f: dataclasses.Field):
    return f.default_factory() if f.default is dataclasses.MISSING else f.default


def _typed(value, default, where: str):
    """`value` as the type of `default`: nested dataclass, tuple or plain scalar."""
    if dataclasses.is_dataclass(default):
        return _from_record(type(default), value, where)
    if isinstance(default, tuple):
        if isinstance(value, list) and value and all(type(item) is type(default[0]) for item in value):
            return tuple(value)
    elif type(value) is type(default) or (isinstance(default, float) and type(value) is int):
        return type(default)(value)
    raise CheckpointError(f"The model's {where} should be like {default!r}, but it is {value!r}.")


RELEASED = ModelConfig()
