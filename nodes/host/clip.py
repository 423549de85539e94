"""Text encoder weights to the host's CLIP."""

from __future__ import annotations

import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import comfy.utils
import folder_paths
import torch
from torch import Tensor

from ...blipdiff_impl.errors import CheckpointError
from ...blipdiff_impl.prompts.rows import ROW
from ...blipdiff_impl.stable_diffusion.config import TextEncoderConfig
from .schema import supported
from .weights import other_sizes, require_exact

# The host's tokenizer fixes it, as it fixes the length of a row, for every CLIP of Stable Diffusion 1.5.
_VOCABULARY = 49408


def load_clip(
    weights: dict[str, Tensor], config: TextEncoderConfig, precision: torch.dtype | None = None, disable_dynamic=False
) -> comfy.sd.CLIP:
    """The host's CLIP around these weights; `embedding:name` finds the user's embeddings.

    Args:
        weights: by transformers' names, `text_model.*`.
        precision: of the weights in memory; None leaves it to the host. It computes in float32 either way.

    Raises:
        CheckpointError: a key is missing, left over or of another shape, or the vocabulary is not SD1.5's.
    """
    if (config.vocab_size, config.max_position_embeddings) != (_VOCABULARY, ROW):
        raise CheckpointError(
            f"This model's text encoder knows {config.vocab_size} tokens and {config.max_position_embeddings} "
            f"positions; ComfyUI's prompt tokenizer needs {_VOCABULARY} and {ROW}."
        )
    clip = _empty_clip(config, precision, disable_dynamic)
    # Stable Diffusion 1.5 has no projection of the pooled output, but the host's class always computes one.
    projection = torch.eye(config.hidden_size, dtype=comfy.utils.weight_dtype(weights))
    try:
        missing, unexpected = clip.load_sd({**weights, "text_projection.weight": projection})
    except RuntimeError:
        raise other_sizes("text encoder", clip.get_sd(), _as_in_host(weights)) from None
    require_exact(missing, unexpected, "text encoder")
    return clip


def _as_in_host(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"clip_l.transformer.{name}": tensor for name, tensor in weights.items()}


def _empty_clip(config: TextEncoderConfig, precision: torch.dtype | None, disable_dynamic: bool) -> comfy.sd.CLIP:
    sizes = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "hidden_act")
    # Made on the CPU: a CLIP that starts on its device is put to use before it has weights.
    options = {
        "clip_l_model_config": {name: getattr(config, name) for name in sizes},
        "initial_device": torch.device("cpu"),
    }
    if precision is not None:
        options["dtype"] = precision
    return comfy.sd.CLIP(
        comfy.supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel),
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        tokenizer_data={},
        model_options=options,
        **supported(comfy.sd.CLIP, disable_dynamic=disable_dynamic),
    )
