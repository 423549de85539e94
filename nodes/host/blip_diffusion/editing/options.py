"""What an artist tells an edit: in words, and in numbers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

MASK_MODES = ("replace", "intersect", "add")


@dataclass(frozen=True, kw_only=True)
class EditWords:
    """What an edit is told in words.

    Attributes:
        source_category: the thing in the picture.
        target_category: what comes instead; empty means the subject's.
        prompt: the picture without the thing, see `compose_edit`.
        target_prompt: the same of the edit; empty means that of the picture.
        negative: what to avoid, for both.
        blend_words: further words, between commas, whose places belong to the mask.
        reweight: words with weights, between commas, see `parse_weights`.
    """

    source_category: str
    target_category: str
    prompt: str
    target_prompt: str
    negative: str
    blend_words: str
    reweight: str


@dataclass(frozen=True, eq=False, kw_only=True)
class EditSettings:
    """How an edit follows its source, and what holds the rest in place.

    Attributes:
        cross_replace, self_replace: share of the steps in which attention follows the source.
        blend: hold everything outside the mask in place.
        blend_threshold: share of the range of the words' attention from which a place belongs to the mask.
        blend_start: share of the steps that pass before the mask acts.
        mask: the user's, `[N or 1, H, W]` in 0..1; None leaves it to attention.
        mask_mode: the user's mask instead of the one from attention, only where both are, or where either is.
    """

    cross_replace: float = 0.8
    self_replace: float = 0.4
    blend: bool = True
    blend_threshold: float = 0.3
    blend_start: float = 0.0
    mask: Tensor | None = None
    mask_mode: str = MASK_MODES[0]

    @property
    def sees_words(self) -> bool:
        """Whether the mask needs the attention to words."""
        return self.blend and (self.mask is None or self.mask_mode != "replace")
