"""Which tensors a component of given sizes must have: canonical name -> shape, without building the module.

The tables let a checkpoint be checked name by name before any weight is read, and on machines without the
libraries that define the modules. UNet and VAE have files of their own.
"""

from __future__ import annotations

from ...stable_diffusion.config import TextEncoderConfig
from ...stable_diffusion.unet_shapes import unet_shapes
from ...stable_diffusion.vae_shapes import vae_shapes
from ...weights.shapes import Shapes, linear, norm, under
from ..config import ImageTowerConfig, ModelConfig, QFormerConfig

PARTS = ("subject_encoder", "text_encoder", "unet", "vae")


def expected_shapes(part: str, config: ModelConfig) -> Shapes:
    """Canonical tensor names and shapes of one of `PARTS`, in the order that files and fingerprints use."""
    if part == "subject_encoder":
        return subject_encoder_shapes(config.image_tower, config.qformer)
    if part == "text_encoder":
        return text_encoder_shapes(config.text_encoder)
    return unet_shapes(config.unet) if part == "unet" else vae_shapes(config.vae)


def subject_encoder_shapes(tower: ImageTowerConfig, qformer: QFormerConfig) -> Shapes:
    """Image tower, Q-Former and projection together, as in the `qformer/` folder of the diffusers layout."""
    return {
        "query_tokens": (1, qformer.num_query_tokens, qformer.hidden_size),
        **_qformer_shapes(qformer, tower.hidden_size),
        **under("visual_encoder", _image_tower_shapes(tower)),
        **under("proj_layer", _projection_shapes(qformer.hidden_size)),
    }


def _qformer_shapes(config: QFormerConfig, image_width: int) -> Shapes:
    width = config.hidden_size
    shapes: Shapes = {
        "embeddings.word_embeddings.weight": (config.vocab_size, width),
        "embeddings.position_embeddings.weight": (config.max_position_embeddings, width),
        **norm("embeddings.LayerNorm", width),
    }
    layer = {
        **under("attention", _bert_attention(width, width)),
        **under("crossattention", _bert_attention(width, image_width)),
        **_bert_feed_forward("", width, config.intermediate_size),
        **_bert_feed_forward("_query", width, config.intermediate_size),
    }
    for index in range(config.num_hidden_layers):
        shapes |= under(f"encoder.layer.{index}", layer)
    return shapes


def _bert_attention(width: int, context_width: int) -> Shapes:
    return {
        **linear("attention.query", width, width),
        **linear("attention.key", width, context_width),
        **linear("attention.value", width, context_width),
        **linear("output.dense", width, width),
        **norm("output.LayerNorm", width),
    }


def _bert_feed_forward(suffix: str, width: int, inner_width: int) -> Shapes:
    return {
        **linear(f"intermediate{suffix}.dense", inner_width, width),
        **linear(f"output{suffix}.dense", width, inner_width),
        **norm(f"output{suffix}.LayerNorm", width),
    }


def _image_tower_shapes(config: ImageTowerConfig) -> Shapes:
    width = config.hidden_size
    shapes: Shapes = {
        "embeddings.class_embedding": (1, 1, width),
        "embeddings.position_embedding": (1, config.num_tokens, width),
        "embeddings.patch_embedding.weight": (width, 3, config.patch_size, config.patch_size),
        **norm("pre_layernorm", width),
    }
    block = {
        **norm("layer_norm1", width),
        **linear("self_attn.qkv", 3 * width, width),
        **linear("self_attn.projection", width, width),
        **norm("layer_norm2", width),
        **linear("mlp.fc1", config.intermediate_size, width),
        **linear("mlp.fc2", width, config.intermediate_size),
    }
    for index in range(config.num_hidden_layers):
        shapes |= under(f"encoder.layers.{index}", block)
    return {**shapes, **norm("post_layernorm", width)}


def _projection_shapes(width: int) -> Shapes:
    return {**linear("dense1", 4 * width, width), **linear("dense2", width, 4 * width), **norm("LayerNorm", width)}


def text_encoder_shapes(config: TextEncoderConfig) -> Shapes:
    """CLIP's text model under `text_model.`, as transformers 4 names it."""
    width = config.hidden_size
    shapes: Shapes = {
        "embeddings.token_embedding.weight": (config.vocab_size, width),
        "embeddings.position_embedding.weight": (config.max_position_embeddings, width),
    }
    block: Shapes = {
        **linear("self_attn.k_proj", width, width),
        **linear("self_attn.v_proj", width, width),
        **linear("self_attn.q_proj", width, width),
        **linear("self_attn.out_proj", width, width),
        **norm("layer_norm1", width),
        **linear("mlp.fc1", config.intermediate_size, width),
        **linear("mlp.fc2", width, config.intermediate_size),
        **norm("layer_norm2", width),
    }
    for index in range(config.num_hidden_layers):
        shapes |= under(f"encoder.layers.{index}", block)
    return under("text_model", {**shapes, **norm("final_layer_norm", width)})
