"""Which entries of a run belong to its positive prompt, and which part of the latent each is computed on.

The number that the host gives a chunk does not say: guidance with three prompts counts the negative one first, and
perturbed guidance asks for the negative one alone. The guider knows its prompts by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from comfy.patcher_extension import WrappersMP

from .conditioning_tags import area_of, is_copy, text_of


@dataclass(frozen=True, eq=False)
class PositiveEntry:
    """One entry of a positive prompt in the evaluation under way.

    Attributes:
        tokens: columns of its text.
        part: None where it is computed on the whole latent; else (height, width) of that, and (height, width, top,
            left) of its part in cells of the latent.
    """

    tokens: int
    part: tuple[tuple[int, int], tuple[int, int, int, int]] | None


class PositiveEntries:
    """Keeps up the positive entries of the evaluation under way."""

    def __init__(self, key: str):
        self._key = key
        self._guider: Any = None
        self._found: dict[tuple, PositiveEntry] = {}

    def install(self, model) -> None:
        """Start looking in the runs of `model`, a clone of the caller's own."""
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, self._key, self.run)
        model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, self._key, self.evaluate)

    def find(self, entry: tuple) -> PositiveEntry | None:
        """An entry, one of `AttentionCall.entries`; None for those of other prompts."""
        return self._found.get(entry)

    def run(self, executor, *args, **kwargs):
        """A run of a sampler."""
        before, self._guider = self._guider, executor.class_obj
        try:
            return executor(*args, **kwargs)
        finally:
            self._guider = before

    def evaluate(self, executor, model, conds, x_in, *args, **kwargs):
        """An evaluation of the prompts of a run; they may be evaluated again within it."""
        before, self._found = self._found, {}
        latent = (x_in.shape[-2], x_in.shape[-1])
        for kind, group in enumerate(conds):
            if not self._is_positive(kind, group):
                continue
            for entry in group or ():
                if (text := text_of(entry)) is not None:
                    area = area_of(entry, latent)
                    part = None if area is None else (latent, area)
                    self._found[kind, entry["uuid"]] = PositiveEntry(text.shape[1], part)
        try:
            return executor(model, conds, x_in, *args, **kwargs)
        finally:
            self._found = before

    def _is_positive(self, kind: int, group: Sequence[dict] | None) -> bool:
        """By the name of the prompt that the group's own entries (not copies of another's) come from."""
        prompts = getattr(self._guider, "conds", None)
        if not prompts:
            return kind == 0
        names = {
            entry.get("uuid"): name for name, entries in prompts.items() for entry in entries if not is_copy(entry)
        }
        found = next(
            (names[own] for each in group or () if (own := each.get("uuid")) in names and not is_copy(each)), "negative"
        )
        return "negative" not in found

    def __deepcopy__(self, memo) -> PositiveEntries:
        return self  # the hooks that ask it hold this very object
