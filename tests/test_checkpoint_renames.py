"""Published names (docs/method.md 8.3) -> canonical names, one by one."""

import pytest

from blipdiff_impl.blip_diffusion.checkpoints.expected_shapes import expected_shapes
from blipdiff_impl.blip_diffusion.checkpoints.renames import DIFFUSERS, LAVIS_BLIP, LAVIS_PROJECTION
from blipdiff_impl.blip_diffusion.config import RELEASED
from blipdiff_impl.weights.renames import rename

LAVIS = {
    "query_tokens": ("query_tokens", (1, 16, 768)),
    "Qformer.bert.embeddings.word_embeddings.weight": ("embeddings.word_embeddings.weight", (30523, 768)),
    "Qformer.bert.embeddings.position_embeddings.weight": ("embeddings.position_embeddings.weight", (512, 768)),
    "Qformer.bert.embeddings.LayerNorm.weight": ("embeddings.LayerNorm.weight", (768,)),
    "Qformer.bert.encoder.layer.0.attention.self.query.weight": (
        "encoder.layer.0.attention.attention.query.weight",
        (768, 768),
    ),
    "text_model.bert.encoder.layer.11.crossattention.self.key.weight": (
        "encoder.layer.11.crossattention.attention.key.weight",
        (768, 1024),
    ),
    "Qformer.bert.encoder.layer.3.attention.output.dense.bias": ("encoder.layer.3.attention.output.dense.bias", (768,)),
    "Qformer.bert.encoder.layer.3.intermediate_query.dense.weight": (
        "encoder.layer.3.intermediate_query.dense.weight",
        (3072, 768),
    ),
    "Qformer.bert.encoder.layer.3.output.dense.weight": ("encoder.layer.3.output.dense.weight", (768, 3072)),
    "visual_encoder.class_embedding": ("visual_encoder.embeddings.class_embedding", (1, 1, 1024)),
    "blip.visual_encoder.positional_embedding": ("visual_encoder.embeddings.position_embedding", (1, 257, 1024)),
    "visual_encoder.conv1.weight": ("visual_encoder.embeddings.patch_embedding.weight", (1024, 3, 14, 14)),
    "visual_encoder.ln_pre.bias": ("visual_encoder.pre_layernorm.bias", (1024,)),
    "visual_encoder.transformer.resblocks.22.ln_1.weight": (
        "visual_encoder.encoder.layers.22.layer_norm1.weight",
        (1024,),
    ),
    "visual_encoder.transformer.resblocks.22.attn.in_proj_weight": (
        "visual_encoder.encoder.layers.22.self_attn.qkv.weight",
        (3072, 1024),
    ),
    "visual_encoder.transformer.resblocks.0.attn.in_proj_bias": (
        "visual_encoder.encoder.layers.0.self_attn.qkv.bias",
        (3072,),
    ),
    "visual_encoder.transformer.resblocks.0.attn.out_proj.weight": (
        "visual_encoder.encoder.layers.0.self_attn.projection.weight",
        (1024, 1024),
    ),
    "visual_encoder.transformer.resblocks.0.mlp.c_fc.weight": (
        "visual_encoder.encoder.layers.0.mlp.fc1.weight",
        (4096, 1024),
    ),
    "visual_encoder.transformer.resblocks.0.mlp.c_proj.bias": ("visual_encoder.encoder.layers.0.mlp.fc2.bias", (1024,)),
    "ln_vision.weight": ("visual_encoder.post_layernorm.weight", (1024,)),
}


@pytest.mark.parametrize("name", LAVIS)
def test_lavis_names(name):
    canonical, shape = LAVIS[name]
    assert rename(name, LAVIS_BLIP) == canonical
    assert expected_shapes("subject_encoder", RELEASED)[canonical] == shape


@pytest.mark.parametrize("name", ["dense1.weight", "proj_layer.dense1.weight"])
def test_projection_names(name):
    assert rename(name, LAVIS_PROJECTION) == "proj_layer.dense1.weight"


@pytest.mark.parametrize("old, new", [("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")])
def test_old_vae_attention_names(old, new):
    place = "decoder.mid_block.attentions.0"
    assert rename(f"{place}.{old}.bias", DIFFUSERS["vae"]) == f"{place}.{new}.bias"
    assert rename(f"{place}.{new}.bias", DIFFUSERS["vae"]) == f"{place}.{new}.bias"


def test_clip_text_names_are_not_taken_for_the_qformer():
    name = "text_model.encoder.layers.0.mlp.fc1.weight"
    assert rename(name, LAVIS_BLIP) == rename(name, DIFFUSERS["text_encoder"]) == name
