"""What the host's CLIP says of phrases: the vector of each, and where they stand in a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import comfy.model_management as mm
import torch
from torch import Tensor

from ....blipdiff_impl.errors import SubjectError
from ....blipdiff_impl.ms_diffusion.phrases import phrase_columns
from ....blipdiff_impl.prompts.tokenizers import CLIP_END

if TYPE_CHECKING:
    from comfy.sd import CLIP

_ENCODER = "l"  # Stable Diffusion XL's first text encoder is that of 1.5
_VECTOR = -1  # stands for an embedding's vector, which is no token


def phrase_vectors(clip: CLIP, phrases: Sequence[str]) -> Tensor:
    """The state at the end of text of each phrase alone, `[phrases, width]`, after the final norm and before any
    projection. LoRAs on the CLIP act; clip skip does not, as in the host's own pooled output.

    Raises:
        SubjectError: the CLIP has no such text encoder.
    """
    rows = [_rows(clip, phrase, weights=False) for phrase in phrases]
    model, device = clip.cond_stage_model, clip.patcher.load_device
    model.reset_clip_options()
    clip.load_model()
    model.clip_l.set_clip_options({"projected_pooled": False, "execution_device": device})
    try:
        with _on(device):
            vectors = [model.clip_l.encode_token_weights(each)[1] for each in rows]
    finally:
        model.reset_clip_options()
    return torch.cat(vectors).to("cpu", torch.float32)


def columns_of(clip: CLIP, prompt: str, phrases: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """The columns of each phrase in a prompt as the host encodes it.

    Raises:
        SubjectError: the CLIP has no such text encoder, or a phrase is not in the prompt.
    """
    named = []
    for phrase in phrases:
        ids = _ids(clip, phrase, weights=False)
        named.append((phrase, ids[1 : ids.index(CLIP_END)]))
    return phrase_columns(_ids(clip, prompt, weights=True), named, CLIP_END)


def _ids(clip: CLIP, text: str, weights: bool) -> list[int]:
    items = [item for row in _rows(clip, text, weights) for item, _ in row]
    return [item if isinstance(item, int) else _VECTOR for item in items]


def _rows(clip: CLIP, text: str, weights: bool) -> list:
    """Chunks of 77 tokens of CLIP-L.

    Args:
        weights: whether parentheses weigh words.
    """
    tokens = clip.tokenize(text, disable_weights=not weights)
    if _ENCODER not in tokens or not hasattr(clip.cond_stage_model, "clip_l"):
        raise SubjectError(
            f"This CLIP has the text encoders {', '.join(map(repr, sorted(tokens)))}; phrases need CLIP-L, the first "
            "one of Stable Diffusion XL. Connect the CLIP that belongs to the MODEL."
        )
    return tokens[_ENCODER]


def _on(device: torch.device) -> AbstractContextManager:
    """The host's own way to compute on a device; older hosts have none."""
    return mm.cuda_device_context(device) if hasattr(mm, "cuda_device_context") else nullcontext()
