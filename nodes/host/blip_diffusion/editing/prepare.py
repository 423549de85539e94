"""An edit made ready for any sampler: MODEL, prompts and LATENT that belong together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from .....blipdiff_impl.blip_diffusion.subject import Subject
from .....blipdiff_impl.errors import SubjectError, excerpt
from .....blipdiff_impl.pictures.preprocess import check_regions
from .....blipdiff_impl.prompts.words import compose_edit
from ...attention import attention_blocks
from ...conditioning_tags import require_prompt_width
from ...notices import tell
from ..prompt import point_out_brackets
from .latents import require_latent
from .options import EditSettings, EditWords
from .prompts import encode_edit
from .run import Editor
from .trajectory import INVERSION_KEY

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP


def prepare_edit(
    model: ModelPatcher, clip: CLIP, subject: Subject | None, latent: dict, words: EditWords, settings: EditSettings
) -> tuple[ModelPatcher, list, list, dict]:
    """MODEL, positive and negative CONDITIONING, and LATENT, all as pairs of source and edit.

    Args:
        subject: None edits words only.
        latent: an empty one, one to start from, or one from inversion.

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
    category = words.target_category
    if not category.strip() and subject is not None:
        category = subject.category
    texts = compose_edit(words.source_category, category, words.prompt, words.target_prompt, subject is not None)
    point_out_brackets(words.prompt, words.target_prompt)
    positive, negatives = encode_edit(clip, subject, texts, words.negative, words.blend_words, words.reweight)
    require_prompt_width(model, positive)
    trajectory = latent.get(INVERSION_KEY)
    if trajectory is not None and trajectory.prompt != texts.source:
        prompts = excerpt(trajectory.prompt), excerpt(texts.source)
        tell(
            f"The picture was inverted as {prompts[0]} but is edited as {prompts[1]}. Give Invert Picture and Edit "
            "with Subject the same source_category and prompt."
        )
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
    return check_regions(mask, "The mask", "so nothing could change. Paint the region to edit white.")


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
