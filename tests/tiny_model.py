"""A complete checkpoint with random weights, a few hundred kilobytes, that the real host loads like any other."""

from __future__ import annotations

import torch

from blipdiff_impl.blip_diffusion.checkpoints import write_single_file
from blipdiff_impl.blip_diffusion.config import (
    ImageTowerConfig,
    ModelConfig,
    QFormerConfig,
    TextEncoderConfig,
    UNetConfig,
    VAEConfig,
)
from blipdiff_impl.blip_diffusion.subject_module import SubjectEncoderModule

WIDTH = 64
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "dog", "tea", "##pot", "mug", "a", "b"]

CONFIG = ModelConfig(
    image_tower=ImageTowerConfig(
        image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    ),
    qformer=QFormerConfig(
        vocab_size=len(PIECES), hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=4 * WIDTH, max_position_embeddings=32,
    ),
    text_encoder=TextEncoderConfig(hidden_size=WIDTH, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96),
    unet=UNetConfig(
        block_out_channels=(32, 64, 64), layers_per_block=1, attention_levels=(True, True, False),
        cross_attention_dim=WIDTH, num_attention_heads=4,
    ),
    vae=VAEConfig(block_out_channels=(16, 32, 32, 48), layers_per_block=1, norm_num_groups=4),
    picture_size=64,
)  # fmt: skip


def random_parts(config: ModelConfig = CONFIG, seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    """Weights of every part under canonical names."""
    return {name: canonical(name, module) for name, module in reference_modules(config, seed).items()}


def reference_modules(config: ModelConfig = CONFIG, seed: int = 0) -> dict[str, torch.nn.Module]:
    """The parts as the libraries build them, randomly initialised with no zero anywhere, in evaluation mode."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    modules = {
        "subject_encoder": SubjectEncoderModule(config),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**config.text_encoder.to_transformers())),
        "unet": UNet2DConditionModel(**config.unet.to_diffusers()),
        "vae": AutoencoderKL(**config.vae.to_diffusers()),
    }
    for module in modules.values():
        module.eval().requires_grad_(False)
        for parameter in module.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return modules


def canonical(part: str, module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A library module's weights under the names that checkpoints use."""
    if part == "subject_encoder":
        return {name: tensor.contiguous() for name, tensor in module.canonical_state_dict().items()}
    weights = {name: tensor for name, tensor in module.state_dict().items() if not name.endswith("position_ids")}
    if part == "text_encoder":  # transformers 5 dropped the prefix
        weights = {name if name.startswith("text_model.") else f"text_model.{name}": t for name, t in weights.items()}
    return weights


def host_clip(comfy, text_encoder: torch.nn.Module, config: ModelConfig = CONFIG):
    """The host's CLIP around the weights of a reference text encoder."""
    load = comfy.module("nodes.host.clip").load_clip
    return load(canonical("text_encoder", text_encoder), config.text_encoder, torch.float32)


def host_unet(comfy, unet: torch.nn.Module, config: ModelConfig = CONFIG):
    """The host's MODEL around the weights of a reference UNet."""
    return comfy.module("nodes.host.unet").load_unet(canonical("unet", unet), config.unet, torch.float32)


def write_tiny_checkpoint(path, config: ModelConfig = CONFIG, seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    """Write the checkpoint as one file; returns its parts."""
    parts = random_parts(config, seed)
    write_single_file(path, parts, config, PIECES)
    return parts
