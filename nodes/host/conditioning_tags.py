"""What a CONDITIONING entry carries for this pack, found again inside the UNet.

The host keeps unknown options of an entry and gives every entry of a run an id, which attention layers see for each
chunk. So a patch on a MODEL acts on the prompts it is meant for and on no other, in whatever chunks they are computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...blipdiff_impl.errors import SubjectError


@dataclass(frozen=True)
class Tagged:
    """One entry of the conditioning in a step, and what the pack put on it.

    Attributes:
        value: what the entry carries.
        tokens: columns of the entry, those that later nodes appended included.
        latent: (height, width) of the whole latent.
        area: (height, width, top, left) of the part that the entry is computed on; None for all of it.
    """

    value: Any
    tokens: int
    latent: tuple[int, int]
    area: tuple[int, int, int, int] | None


class TagFinder:
    """Keeps up, for the evaluation under way, which entries carry a value under `key`.

    The host makes entries of its own: for each area of one prompt it puts a copy of that entry beside the other prompts
    (negative for positive and the reverse), note and id included, but with the text of the prompt that stands there. So
    what an entry carries is what belongs to its text.
    """

    def __init__(self, key: str):
        self._key = key
        self._found: dict[tuple, Tagged] = {}

    def install(self, model) -> None:
        """Start looking in the runs of `model`, a clone of the caller's own."""
        model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, self._key, self)

    def find(self, entry: tuple) -> Tagged | None:
        """What an entry, one of `AttentionCall.entries`, carries; None where it carries nothing."""
        return self._found.get(entry)

    def __call__(self, executor, model, conds, x_in, *args, **kwargs):
        entries = [
            (kind, entry, text)
            for kind, group in enumerate(conds)
            for entry in group or ()
            if (text := text_of(entry)) is not None
        ]
        notes = {id(text): entry.get(self._key) for _, entry, text in entries if not is_copy(entry)}
        latent = (x_in.shape[-2], x_in.shape[-1])
        for kind, entry, text in entries:
            value = notes.get(id(text)) if is_copy(entry) else entry.get(self._key)
            if value is not None:
                tagged = Tagged(value, text.shape[1], latent, area_of(entry, latent))
                self._found[kind, entry["uuid"]] = tagged
        try:
            return executor(model, conds, x_in, *args, **kwargs)
        finally:
            self._found = {}

    def __deepcopy__(self, memo) -> TagFinder:
        return self  # the hooks that ask it hold this very object


def require_prompt_width(model, conditioning: list[list]) -> None:
    """Refuse a MODEL that reads prompts of another width than this one.

    Raises:
        SubjectError: names both widths.
    """
    reads = model.model.model_config.unet_config.get("context_dim")
    if reads != (width := conditioning[0][0].shape[-1]):
        raise SubjectError(
            f"This MODEL ({type(model.model).__name__}) reads prompts of width {reads}, but this one has width "
            f"{width}. Connect the MODEL and the CLIP of one Stable Diffusion 1.5 model; SDXL and others do not fit."
        )


def text_of(entry: dict) -> Tensor | None:
    """The encoded prompt that the entry is computed with."""
    found = entry.get("model_conds", {}).get("c_crossattn")
    return None if found is None else found.cond


def is_copy(entry: dict) -> bool:
    """Whether the host made the entry from another one, and gave it the text of a third."""
    text = text_of(entry)
    return entry.get("cross_attn", text) is not text


def area_of(entry: dict, latent: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """The part of the latent that the entry is computed on, cut as the host cuts it."""
    if "area" not in entry:
        return None
    half = len(entry["area"]) // 2
    height, width, *_ = map(int, entry["area"][:half])
    top, left, *_ = map(int, entry["area"][half:])
    return min(height, latent[0] - top), min(width, latent[1] - left), top, left
