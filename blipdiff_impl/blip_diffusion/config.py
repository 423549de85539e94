"""Sizes of a BLIP-Diffusion model: one dataclass per component, defaults as released.

A checkpoint carries its sizes as JSON, so the embedded model and the released one go through the same code.
Numbers that have no field here (activation functions, sampling betas) are the same for every model of the family.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field

from ..errors import CheckpointError
from ..settings import typed_record
from ..stable_diffusion.config import TextEncoderConfig, UNetConfig, VAEConfig
from ..untrusted import parse_json
from .config_checks import require_possible


@dataclass(frozen=True, kw_only=True)
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


@dataclass(frozen=True, kw_only=True)
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


@dataclass(frozen=True, kw_only=True)
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
            CheckpointError: the text is no JSON object, has a field that this version does not know, or a size that
                no model has.
        """
        try:
            record = parse_json(text)
        except ValueError as error:
            raise CheckpointError(
                f"The model's configuration is not valid JSON ({error}). Convert the checkpoint again."
            ) from error
        return cls.from_record(record)

    @classmethod
    def from_record(cls, record: object) -> ModelConfig:
        """The same from what the JSON holds.

        Raises:
            CheckpointError: as `from_json`.
        """
        config = typed_record(cls, record, "model's configuration")
        require_possible(config)
        return config


RELEASED = ModelConfig()
