"""What one model learned beyond another, as patches on a third: the ability moves to anyone's checkpoint.

A patch is the difference of two weights. It stacks with LoRAs and is taken off again, as every patch of the host is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ....blipdiff_impl.errors import SubjectError
from ..prompt_rows import require_stable_diffusion
from ..session import Progress
from .finetuning.copies import effective_weights

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP

_UNET, _TEXT = "diffusion_model.", "clip_l.transformer.text_model."


def transplant(
    model: ModelPatcher,
    clip: CLIP,
    subject_model: ModelPatcher,
    subject_clip: CLIP,
    base_model: ModelPatcher,
    base_clip: CLIP,
    strength: float,
) -> tuple[ModelPatcher, CLIP]:
    """Clones of `model` and `clip` with what the subject model learned since it was the base, times `strength`.

    Patches on any of them count: of the first two they stay below, of the others they are part of the difference.

    Raises:
        SubjectError: models of different sizes, or another family.
    """
    for each in (clip, subject_clip, base_clip):
        require_stable_diffusion(each)
    clone, text = model.clone(), clip.clone()
    _add(clone, subject_model, base_model, _UNET, strength, "MODEL")
    _add(text.patcher, subject_clip.patcher, base_clip.patcher, _TEXT, strength, "CLIP")
    return clone, text


def _add(
    target: ModelPatcher, learned: ModelPatcher, base: ModelPatcher, prefix: str, strength: float, kind: str
) -> None:
    shapes = [_shapes(patcher, prefix) for patcher in (target, learned, base)]
    if not shapes[0] or not shapes[0] == shapes[1] == shapes[2]:
        counts = ", ".join(f"{name} {sum(map(torch.Size.numel, each.values())):,}" for name, each in zip(
            ("this one", "the subject model", "the base"), shapes, strict=True))  # fmt: skip
        raise SubjectError(
            f"These {kind}s are not of one size (numbers in their weights: {counts}). All three must be of Stable "
            "Diffusion 1.5."
        )
    progress, patches = Progress(len(shapes[0])), {}
    for key, change in _differences(learned, base, prefix):
        progress.report(len(patches), len(shapes[0]))
        patches[key] = ("diff", (change,))
    progress.report(len(shapes[0]), len(shapes[0]))
    target.add_patches({key: patch for key, patch in patches.items() if patch[1][0].any()}, strength)


def _differences(learned: ModelPatcher, base: ModelPatcher, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Key and difference of each weight; in 16 bit where that is exact, as it often is for models stored in 16 bit."""
    before = effective_weights(base, prefix, torch.device("cpu"))
    after = effective_weights(learned, prefix, torch.device("cpu"))
    for (name, new), (other, old) in zip(after, before, strict=True):
        assert name == other
        change = new - old
        half = change.half()
        yield prefix + name, half if torch.equal(half.float(), change) else change


def _shapes(patcher: ModelPatcher, prefix: str) -> dict[str, torch.Size]:
    weights = patcher.model_state_dict(prefix)
    return {key: weight.shape for key, weight in weights.items() if not key.endswith("position_ids")}
