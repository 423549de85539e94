"""What kind of model a file holds, by the names of its tensors: so that a wrong choice is called what it is."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..errors import first_few

# The first row with a pattern that one of the names begins with; narrow ones first.
_KINDS = (
    ("an MS-Diffusion adapter", r"ms_adapter\.|dummy_image_tokens$|image_proj\.grounding_latents$"),
    ("a GILL model", r"(?:module\.)?(?:model\.)?(?:gen_text_hidden_fcs|visual_embeddings|ret_text_hidden_fcs)\."),
    ("a language model (OPT)", r"(?:model\.)?decoder\.(?:embed_tokens|embed_positions|layers\.\d+\.self_attn)\."),
    ("an IP-Adapter", r"ip_adapter\.|image_proj\."),
    (
        "a ControlNet",
        r"control_model\.|controlnet_|input_hint_block\.|zero_convs\.|lllite_|(?:middle_block|mid_block)_out\.",
    ),
    ("a LoRA", r"lora_(?:unet|te\d?|transformer)_|.*[._]lora[._]?(?:A|B|up|down)\b|diffusion_model\..*\.lora_"),
    (
        "a BLIP-Diffusion checkpoint",
        r"subject_encoder\.|blip\.|Qformer\.|proj_layer\.|query_tokens$|ctx_embeddings_cache$|subject_vectors$",
    ),
    ("a checkpoint with a whole Stable Diffusion model", r"model\.diffusion_model\.|first_stage_model\.|conditioner\."),
    ("a subject or a textual inversion", r"clip_[lg]$|emb_params$|string_to_param"),
    ("a CLIP vision model", r"vision_model\.|visual\.|visual_projection\."),
    ("a text encoder", r"text_model\.|cond_stage_model\.|transformer\.text_model\."),
    ("a UNet", r"(?:unet\.)?(?:down_blocks|input_blocks)\."),
    ("a VAE", r"(?:vae\.)?(?:decoder|encoder)\.(?:conv_in|mid)"),
)


def kind_of(names: Iterable[str]) -> str | None:
    """Words for the kind of model with an article ("a ControlNet"), None where the names say nothing.

    Args:
        names: of the file's tensors; tables inside tables joined by points.
    """
    names = list(names)
    return next((kind for kind, pattern in _KINDS if any(re.match(pattern, name) for name in names)), None)


def what_it_is(names: Iterable[str]) -> str:
    """Half a sentence about a file of another kind: what it looks like, or the first names in it."""
    names = list(names)
    kind = kind_of(names)
    return f"it looks like {kind}" if kind else f"its tensors are {first_few(names) or 'none'}"
