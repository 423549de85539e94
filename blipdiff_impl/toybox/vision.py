"""The embedded model's image tower as a CLIP picture encoder, whose last states but one an MS-Diffusion adapter reads.

The tower is all of a CLIP but its last block, so the last states but one are what it gives before its own norm.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..blip_diffusion.encoder import SubjectEncoder
from ..blip_diffusion.image_tower import ImageTower


def penultimate_states(tower: ImageTower, pixels: Tensor) -> Tensor:
    """The last states but one, `[n, tokens, W]`, of normalised pictures `[n, 3, S, S]`."""
    return tower.encoder(inputs_embeds=tower.pre_layernorm(tower.embeddings(pixels))).last_hidden_state


def as_clip_vision(model: str = "toybox") -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Sizes and weights of a CLIP picture encoder, both under the names that transformers has for them.

    Its last block is all zeros, so that it changes nothing.
    """
    config, weights = tower_as_clip_vision(model)
    blocks = config["num_hidden_layers"]
    first, last = (f"vision_model.encoder.layers.{block}." for block in (0, blocks))
    zeros = {
        name.replace(first, last): torch.zeros_like(tensor)
        for name, tensor in weights.items()
        if name.startswith(first)
    }
    return {**config, "num_hidden_layers": blocks + 1}, weights | zeros


def tower_as_clip_vision(model: str = "toybox") -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The same without that block, float32."""
    module = SubjectEncoder.from_checkpoint(model).module
    sizes, own = module.config.image_tower, module.visual_encoder.state_dict()
    config = {
        "model_type": "clip_vision_model", "hidden_size": sizes.hidden_size,
        "intermediate_size": sizes.intermediate_size, "num_hidden_layers": sizes.num_hidden_layers,
        "num_attention_heads": sizes.num_attention_heads, "image_size": sizes.image_size,
        "patch_size": sizes.patch_size, "num_channels": 3, "hidden_act": "quick_gelu",
        "layer_norm_eps": sizes.layer_norm_eps,
    }  # fmt: skip
    weights = {f"vision_model.{_renamed(name)}": tensor.float() for name, tensor in own.items()}
    weights["vision_model.embeddings.class_embedding"] = weights["vision_model.embeddings.class_embedding"].flatten()
    position = "vision_model.embeddings.position_embedding.weight"
    weights[position] = weights[position].flatten(0, -2)
    return config, weights


def _renamed(name: str) -> str:
    if name == "embeddings.position_embedding":
        return f"{name}.weight"
    return name.replace("pre_layernorm", "pre_layrnorm") if name.startswith("pre_layernorm") else name
