"""An edit made ready for any sampler: MODEL, prompts and LATENT that belong together."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from ....blipdiff_impl.editing.words import compose_edit
from ....blipdiff_impl.errors import SubjectError
from ....blipdiff_impl.subject import Subject
from ..attention import attention_blocks
from ..conditioning_tags import require_prompt_width
from .latents import require_latent
from .prompts import encode_edit
from .run import Editor, EditSettings
from .trajectory import INVERSION_KEY

log = logging.getLogger(__name__)


def prepare_edit(
    model,
    clip,
    subject: Subject | None,
    latent: dict,
    source_category: str,
    target_category: str,
    prompt: str,
    target_prompt: str,
    negative: str,
    blend_words: str,
    reweight: str,
    settings: EditSettings,
) -> tuple[object, list, list, dict]:
    """MODEL, positive and negative CONDITIONING, and LATENT, all as pairs of source and edit.

    Args:
        subject: None edits words only.
        latent: an empty one, one to start from, or one from inversion.
        target_category: empty means the subject's.

    Raises:
        SubjectError: words, models, masks or batches that do not fit.
    """
    attention_blocks(model)
    samples = require_latent(model, latent)
    if subject is not None and len(subject) not in (1, len(samples)):
        raise SubjectError(
            f"There are {len(subject)} subjects for {len(samples)} latents. Connect one subject, or a latent batch of "
            f"{len(subject)}."
        )
    if settings.mask is not None and len(settings.mask) not in (1, len(samples)):
        raise SubjectError(f"There are {len(settings.mask)} masks for {len(samples)} latents; connect one, or as many.")
    if not target_category.strip() and subject is not None:
        target_category = subject.category
    texts = compose_edit(source_category, target_category, prompt, target_prompt, subject is not None)
    positive, negatives = encode_edit(clip, subject, texts, negative, blend_words, reweight)
    require_prompt_width(model, positive)
    trajectory = latent.get(INVERSION_KEY)
    if trajectory is not None and trajectory.prompt != texts.source:
        log.warning("The picture was inverted as %r but is edited as %r.", trajectory.prompt, texts.source)
    model = model.clone()
    Editor(settings, trajectory).install(model)
    return model, positive, negatives, _pairs(latent, samples if trajectory is None else trajectory.clean)


def checked_mask(mask: Tensor | None) -> Tensor | None:
    """A MASK as float32 `[N, H, W]` in 0..1 on the CPU.

    Raises:
        SubjectError: another shape, NaN, or nothing selected.
    """
    if mask is None:
        return None
    mask = mask.detach().to("cpu", torch.float32)
    mask = mask[None] if mask.ndim == 2 else mask
    if mask.ndim != 3 or 0 in mask.shape:
        raise SubjectError(f"The mask has the shape {list(mask.shape)}; a MASK is [pictures, height, width].")
    if not torch.isfinite(mask).all():
        raise SubjectError("The mask holds NaN or infinite values; the node that made it is broken.")
    if not mask.any():
        raise SubjectError("The mask is empty, so nothing could change. Paint the region to edit white.")
    return mask.clamp(0, 1)


def _pairs(latent: dict, samples: Tensor) -> dict:
    """Every item twice, with one noise for both."""
    numbers = latent.get("batch_index") or range(len(samples))
    kept = {key: value for key, value in latent.items() if key not in ("samples", INVERSION_KEY)}
    pairs = {
        **kept,
        "samples": samples.repeat_interleave(2, dim=0),
        "batch_index": [number for number in numbers for _ in range(2)],
    }
    mask = latent.get("noise_mask")
    if mask is not None and len(mask) > 1:
        pairs["noise_mask"] = mask.repeat_interleave(2, dim=0)
    return pairs
