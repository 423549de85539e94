"""Small random models, and writers that lay them out as each published layout does, with the published names."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from blipdiff_impl.blip_diffusion.checkpoints import PARTS
from blipdiff_impl.blip_diffusion.checkpoints.expected_shapes import expected_shapes
from blipdiff_impl.blip_diffusion.config import (
    ImageTowerConfig,
    ModelConfig,
    QFormerConfig,
    TextEncoderConfig,
    UNetConfig,
    VAEConfig,
)

VOCABULARY = [f"piece{i}" for i in range(40)]
SMALL = ModelConfig(
    image_tower=ImageTowerConfig(
        image_size=16,
        patch_size=8,
        hidden_size=8,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=16,
    ),
    qformer=QFormerConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=12,
        num_query_tokens=4,
    ),
    text_encoder=TextEncoderConfig(
        vocab_size=49408, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    ),
    unet=UNetConfig(
        block_out_channels=(8, 16),
        layers_per_block=1,
        attention_levels=(True, False),
        cross_attention_dim=16,
        num_attention_heads=2,
        norm_num_groups=4,
    ),
    vae=VAEConfig(block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=4),
    picture_size=32,
)

_UNUSED_HEADS = {
    "Qformer.cls.predictions.bias": (40,),
    "Qformer.cls.predictions.transform.dense.weight": (16, 16),
    "Qformer.cls.predictions.transform.dense.bias": (16,),
    "Qformer.cls.predictions.transform.LayerNorm.weight": (16,),
    "Qformer.cls.predictions.transform.LayerNorm.bias": (16,),
    "Qformer.cls.predictions.decoder.weight": (40, 16),
    "Qformer.cls.predictions.decoder.bias": (40,),
    "vision_proj.weight": (4, 16),
    "vision_proj.bias": (4,),
    "text_proj.weight": (4, 16),
    "text_proj.bias": (4,),
    "itm_head.weight": (2, 16),
    "itm_head.bias": (2,),
    "temp": (),
}


def random_parts(config: ModelConfig = SMALL, seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    """Every part with random weights under canonical names."""
    generator = torch.Generator().manual_seed(seed)
    return {
        part: {name: torch.randn(shape, generator=generator) for name, shape in expected_shapes(part, config).items()}
        for part in PARTS
    }


def save(tensors: dict[str, torch.Tensor], path: Path) -> Path:
    """Write tensors as safetensors or as a pickle, by the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    if path.suffix == ".safetensors":
        save_file(tensors, path, metadata={"format": "pt"})
    else:
        torch.save(tensors, path)
    return path


def write_diffusers_folder(folder: Path, parts, suffix: str = "bin", config: ModelConfig = SMALL) -> Path:
    """The diffusers layout, with the short Q-Former configuration of the published ControlNet folder."""
    stems = {
        "subject_encoder": ("qformer", "model", "pytorch_model"),
        "text_encoder": ("text_encoder", "model", "pytorch_model"),
        "unet": ("unet", "diffusion_pytorch_model", "diffusion_pytorch_model"),
        "vae": ("vae", "diffusion_pytorch_model", "diffusion_pytorch_model"),
    }
    buffers = {
        "subject_encoder": {"embeddings.position_ids": torch.arange(12)[None]},
        "text_encoder": {"text_model.embeddings.position_ids": torch.arange(77)[None]},
    }
    for part, tensors in parts.items():
        name, safe, pickled = stems[part]
        stem = safe if suffix == "safetensors" else pickled
        save({**tensors, **buffers.get(part, {})}, folder / name / f"{stem}.{suffix}")
    write_component_configs(folder, config)
    (folder / "qformer" / "config.json").write_text(json.dumps(_qformer_record(config)))
    (folder / "qformer" / "vocab.txt").write_text("\n".join(VOCABULARY))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "BlipDiffusionPipeline"}))
    return folder


def write_component_configs(folder: Path, config: ModelConfig = SMALL) -> None:
    """`config.json` of text encoder, UNet and VAE, with some of the fields that the libraries add."""
    unet = {"_class_name": "UNet2DConditionModel", "sample_size": 16, **config.unet.to_diffusers()}
    vae = {"_class_name": "AutoencoderKL", **config.vae.to_diffusers()}
    text = {"model_type": "clip_text_model", **config.text_encoder.to_transformers(), "bos_token_id": 0}
    for name, record in (("unet", unet), ("vae", vae), ("text_encoder", text)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "config.json").write_text(json.dumps(record))


def _qformer_record(config: ModelConfig) -> dict:
    tower, qformer = config.image_tower, config.qformer
    return {
        "model_type": "blip-2",
        "num_query_tokens": qformer.num_query_tokens,
        "qformer_config": {
            "cross_attention_frequency": 1,
            "encoder_hidden_size": tower.hidden_size,
            "vocab_size": qformer.vocab_size,
            "hidden_size": qformer.hidden_size,
            "num_hidden_layers": qformer.num_hidden_layers,
            "num_attention_heads": qformer.num_attention_heads,
            "intermediate_size": qformer.intermediate_size,
            "max_position_embeddings": qformer.max_position_embeddings,
        },
        "vision_config": {
            "hidden_act": "quick_gelu",
            "hidden_size": tower.hidden_size,
            "intermediate_size": tower.intermediate_size,
            "num_hidden_layers": tower.num_hidden_layers,
            "num_attention_heads": tower.num_attention_heads,
            "image_size": tower.image_size,
            "patch_size": tower.patch_size,
            "layer_norm_eps": 1e-6,
        },
        "text_config": {"model_type": "opt"},
    }


def lavis_blip_file(subject_encoder, prefix: str = "Qformer.") -> dict[str, torch.Tensor]:
    """`blip_weight.pt`: Q-Former and tower under LAVIS names, with the unused heads and the position buffer."""
    tensors = {}
    for name, tensor in subject_encoder.items():
        if name.startswith("visual_encoder.post_layernorm."):
            tensors[name.replace("visual_encoder.post_layernorm", "ln_vision")] = tensor
        elif name.startswith("visual_encoder."):
            tensors["visual_encoder." + clip_name(name.removeprefix("visual_encoder."))] = squeezed(name, tensor)
        elif name.startswith(("embeddings.", "encoder.")):
            tensors[f"{prefix}bert.{name.replace('attention.attention.', 'attention.self.')}"] = tensor
        elif not name.startswith("proj_layer."):
            tensors[name] = tensor
    heads = {name.replace("Qformer.", prefix): torch.randn(shape) for name, shape in _UNUSED_HEADS.items()}
    return {**tensors, **heads, f"{prefix}bert.embeddings.position_ids": torch.arange(12)[None]}


def squeezed(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Class and position embedding as CLIP keeps them, without leading axes of length one."""
    if name.endswith("embeddings.class_embedding"):
        return tensor[0, 0]
    return tensor[0] if name.endswith("embeddings.position_embedding") else tensor


def clip_name(name: str) -> str:
    """A tower tensor's name in CLIP's own file, from the diffusers name without `visual_encoder.`."""
    for diffusers, clip in (
        ("embeddings.class_embedding", "class_embedding"),
        ("embeddings.position_embedding", "positional_embedding"),
        ("embeddings.patch_embedding", "conv1"),
        ("pre_layernorm", "ln_pre"),
        ("encoder.layers", "transformer.resblocks"),
        ("layer_norm1", "ln_1"),
        ("layer_norm2", "ln_2"),
        ("self_attn.qkv.", "attn.in_proj_"),
        ("self_attn.projection", "attn.out_proj"),
        ("mlp.fc1", "mlp.c_fc"),
        ("mlp.fc2", "mlp.c_proj"),
    ):
        name = name.replace(diffusers, clip)
    return name


def old_vae_names(vae, convolutions: bool = False) -> dict[str, torch.Tensor]:
    """The VAE under the attention names of diffusers before 0.17, optionally with 1x1 convolutions."""
    renamed = {}
    for name, tensor in vae.items():
        new = name
        if ".attentions.0." in name:
            for now, then in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
                new = new.replace(f".{now}.", f".{then}.")
            if convolutions and new != name and name.endswith(".weight"):
                tensor = tensor[:, :, None, None]
        renamed[new] = tensor
    return renamed


def write_lavis_folder(folder: Path, parts, prefix: str = "Qformer.", tower: bool = True) -> Path:
    """The LAVIS layout: pickles, old VAE names, heads that nothing uses, a safety checker left over."""
    blip = lavis_blip_file(parts["subject_encoder"], prefix)
    if not tower:
        blip = {name: tensor for name, tensor in blip.items() if not name.startswith("visual_encoder.")}
    save(blip, folder / "blip_model" / "blip_weight.pt")
    projection = {
        name.removeprefix("proj_layer."): tensor
        for name, tensor in parts["subject_encoder"].items()
        if name.startswith("proj_layer.")
    }
    save(projection, folder / "proj_layer" / "proj_weight.pt")
    save(parts["unet"], folder / "unet" / "diffusion_pytorch_model.bin")
    save(old_vae_names(parts["vae"]), folder / "vae" / "diffusion_pytorch_model.bin")
    text = {**parts["text_encoder"], "text_model.embeddings.position_ids": torch.arange(77)[None]}
    save(text, folder / "text_encoder" / "pytorch_model.bin")
    (folder / "safety_checker").mkdir()
    (folder / "blip_model" / "vocab.txt").write_text("\n".join(VOCABULARY))
    return folder


def fine_tuned_state(parts, vectors: torch.Tensor) -> dict:
    """What LAVIS saves when fine-tuning: the UNet, the vectors, escaped entries, and the optimiser's state."""
    model = {f"unet.{name}": tensor for name, tensor in parts["unet"].items()}
    model |= {
        "ctx_embeddings_cache": vectors,
        "blip.Qformer.cls.predictions.decoder.weight": torch.randn(40, 16),
        "blip.Qformer.cls.predictions.decoder.bias": torch.randn(40),
        "blip.Qformer.bert.embeddings.position_ids": torch.arange(12)[None],
        "text_encoder.text_model.embeddings.position_ids": torch.arange(77)[None],
    }
    optimizer = {"state": {0: {"step": 1, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 5e-6, "params": [0]}]}
    return {
        "model": model,
        "optimizer": optimizer,
        "config": {"run": {"max_iters": 40}},
        "scaler": None,
        "iters": 40,
    }


def fine_tuned_with_qformer(parts, vectors: torch.Tensor) -> dict:
    """The same with `qformer_train: True`: what needs a gradient is saved, so neither tower nor projection."""
    state = fine_tuned_state(parts, vectors)
    blip = lavis_blip_file(parts["subject_encoder"])
    trained = {name: tensor for name, tensor in blip.items() if not name.startswith("visual_encoder.")}
    return {**state, "model": {**state["model"], **{f"blip.{name}": tensor for name, tensor in trained.items()}}}


def whole_model_state(parts) -> dict[str, torch.Tensor]:
    """A LAVIS model's whole state dict: one prefix per module, the ControlNet beside them, zeros as cache."""
    encoder = parts["subject_encoder"]
    return {
        **{f"blip.{name}": tensor for name, tensor in lavis_blip_file(encoder).items()},
        **{name: tensor for name, tensor in encoder.items() if name.startswith("proj_layer.")},
        **{f"text_encoder.{name}": tensor for name, tensor in parts["text_encoder"].items()},
        **{f"unet.{name}": tensor for name, tensor in parts["unet"].items()},
        **{f"vae.{name}": tensor for name, tensor in old_vae_names(parts["vae"]).items()},
        "controlnet.conv_in.weight": torch.randn(8, 4, 3, 3),
        "ctx_embeddings_cache": torch.zeros(1, 4, 16),
    }
