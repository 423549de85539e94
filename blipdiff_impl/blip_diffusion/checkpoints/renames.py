"""From the names in published files to canonical names, which are those of the diffusers layout."""

from __future__ import annotations

from ...weights.renames import Rules

# The image tower as CLIP's authors and LAVIS name it.
CLIP_TOWER: Rules = (
    (r"^visual_encoder\.(class|positional)_embedding$", r"visual_encoder.embeddings.\1_embedding"),
    (r"^visual_encoder\.embeddings\.positional_", "visual_encoder.embeddings.position_"),
    (r"^visual_encoder\.conv1\.", "visual_encoder.embeddings.patch_embedding."),
    (r"^visual_encoder\.ln_pre\.", "visual_encoder.pre_layernorm."),
    (r"^visual_encoder\.transformer\.resblocks\.", "visual_encoder.encoder.layers."),
    (r"^(visual_encoder\.encoder\.layers\.\d+)\.ln_([12])\.", r"\1.layer_norm\2."),
    (r"^(visual_encoder\.encoder\.layers\.\d+)\.attn\.in_proj_", r"\1.self_attn.qkv."),
    (r"^(visual_encoder\.encoder\.layers\.\d+)\.attn\.out_proj\.", r"\1.self_attn.projection."),
    (r"^(visual_encoder\.encoder\.layers\.\d+)\.mlp\.c_fc\.", r"\1.mlp.fc1."),
    (r"^(visual_encoder\.encoder\.layers\.\d+)\.mlp\.c_proj\.", r"\1.mlp.fc2."),
)

# The image tower as transformers names it (`pre_layrnorm` is spelt so there).
TRANSFORMERS_TOWER: Rules = (
    (r"^vision_model\.embeddings\.position_embedding\.weight$", "vision_model.embeddings.position_embedding"),
    (r"^vision_model\.pre_layrnorm\.", "vision_model.pre_layernorm."),
    (r"\.self_attn\.out_proj\.", ".self_attn.projection."),
    (r"^vision_model\.", "visual_encoder."),
)

# Q-Former and tower as LAVIS saves them; research files say `text_model.bert.` for the Q-Former's body.
# The CLIP text encoder's names start with `text_model.` too, so these rules are for the BLIP file alone.
LAVIS_BLIP: Rules = (
    (r"^blip\.", ""),
    (r"^text_model\.(bert|cls)\.", r"Qformer.\1."),
    (r"^Qformer\.bert\.embeddings\.", "embeddings."),
    (r"^Qformer\.bert\.(encoder\.layer\.\d+\.(?:cross)?attention)\.self\.", r"\1.attention."),
    (r"^Qformer\.bert\.encoder\.layer\.", "encoder.layer."),
    *CLIP_TOWER,
    (r"^ln_vision\.", "visual_encoder.post_layernorm."),
)

LAVIS_PROJECTION: Rules = ((r"^(?!proj_layer\.)", "proj_layer."),)

# diffusers before 0.17 named the VAE's attention after its roles.
VAE: Rules = (
    (r"(\.attentions\.0)\.query\.", r"\1.to_q."),
    (r"(\.attentions\.0)\.key\.", r"\1.to_k."),
    (r"(\.attentions\.0)\.value\.", r"\1.to_v."),
    (r"(\.attentions\.0)\.proj_attn\.", r"\1.to_out.0."),
)

# transformers 5 saves the text model without its prefix.
TEXT_ENCODER: Rules = ((r"^(embeddings|encoder|final_layer_norm)\.", r"text_model.\1."),)

DIFFUSERS: dict[str, Rules] = {"subject_encoder": (), "text_encoder": TEXT_ENCODER, "unet": (), "vae": VAE}

# Heads of the first pre-training stage that LAVIS keeps in the file; nothing generates with them (docs/method.md 8.5).
LAVIS_UNUSED = frozenset(
    {
        "Qformer.cls.predictions.bias",
        "Qformer.cls.predictions.transform.dense.weight",
        "Qformer.cls.predictions.transform.dense.bias",
        "Qformer.cls.predictions.transform.LayerNorm.weight",
        "Qformer.cls.predictions.transform.LayerNorm.bias",
        "Qformer.cls.predictions.decoder.weight",
        "Qformer.cls.predictions.decoder.bias",
        "vision_proj.weight",
        "vision_proj.bias",
        "text_proj.weight",
        "text_proj.bias",
        "itm_head.weight",
        "itm_head.bias",
        "temp",
    }
)
# Position numbers 0..n-1 that old modules saved as buffers.
POSITION_IDS = frozenset(
    {
        "embeddings.position_ids",
        "text_model.embeddings.position_ids",
        "visual_encoder.embeddings.position_ids",
    }
)
