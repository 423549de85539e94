"""What a CONDITIONING entry carries for this pack, found again inside the UNet.

The host keeps unknown options of an entry and gives every entry of a run an id, which attention layers see for each
chunk. So a patch on a MODEL acts on the prompts it is meant for and on no other, in whatever chunks they are computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from comfy.patcher_extension import WrappersMP

from ...blipdiff_impl.errors import SubjectError


@dataclass(frozen=True)
class Tagged:
    """Attributes:
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
    """Keeps up, for the evaluation under way, which entries carry a value under `key`."""

    def __init__(self, key: str):
        self._key = key
        self._found: dict[Any, Tagged] = {}

    def install(self, model) -> None:
        """Start looking in the runs of `model`, a clone of the caller's own."""
        model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, self._key, self)

    def find(self, entry) -> Tagged | None:
        """What the entry with this id carries; None where it carries nothing."""
        return self._found.get(entry)

    def __call__(self, executor, model, conds, x_in, *args, **kwargs):
        latent = tuple(x_in.shape[-2:])
        entries = [entry for group in conds if group for entry in group if self._key in entry]
        self._found = {
            entry["uuid"]: Tagged(
                entry[self._key], entry["model_conds"]["c_crossattn"].cond.shape[1], latent, _area(entry)
            )
            for entry in entries
        }
        return executor(model, conds, x_in, *args, **kwargs)

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


def _area(entry: dict) -> tuple[int, int, int, int] | None:
    return tuple(int(side) for side in entry["area"]) if "area" in entry else None
