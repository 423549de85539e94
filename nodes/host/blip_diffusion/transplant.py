"""What one model learned beyond another, as patches on a third: the ability moves to anyone's checkpoint.

A patch is the difference of two weights; a second one is what rounding leaves over, where it does. They stack with
LoRAs and are taken off again, as every patch of the host is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ....blipdiff_impl.blip_diffusion.stored_weights import exact_changes
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
    progress, patches = Progress(len(shapes[0])), defaultdict(dict)
    for done, (key, changes) in enumerate(_differences(learned, base, prefix)):
        progress.report(done, len(shapes[0]))
        for turn, change in enumerate(changes):
            if change.any():
                patches[turn][key] = ("diff", (_compact(change),))
    progress.report(len(shapes[0]), len(shapes[0]))
    for turn in sorted(patches):  # a weight keeps its patches in the order in which they were added
        target.add_patches(patches[turn], strength)


def _differences(learned: ModelPatcher, base: ModelPatcher, prefix: str) -> Iterator[tuple[str, tuple[Tensor, Tensor]]]:
    """Key of each weight, and the changes that lead from one to the other, one after the other."""
    before = effective_weights(base, prefix, torch.device("cpu"))
    after = effective_weights(learned, prefix, torch.device("cpu"))
    for (name, new), (other, old) in zip(after, before, strict=True):
        assert name == other
        yield prefix + name, exact_changes(new, old)


def _compact(change: Tensor) -> Tensor:
    """In 16 bit where that is exact, as it often is for models stored in 16 bit."""
    halves = (change.to(dtype) for dtype in (torch.float16, torch.bfloat16))
    return next((half for half in halves if torch.equal(half.float(), change)), change)


def _shapes(patcher: ModelPatcher, prefix: str) -> dict[str, torch.Size]:
    weights = patcher.model_state_dict(prefix)
    return {key: weight.shape for key, weight in weights.items() if not key.endswith("position_ids")}
