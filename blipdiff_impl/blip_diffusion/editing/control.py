"""Attention of the edit, made from the attention of its source (prompt-to-prompt's refinement; docs/method.md 6.4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...prompts.alignment import Alignment


@dataclass(frozen=True, eq=False)
class Columns:
    """What is known of the columns of both prompts, each `T` long.

    Attributes:
        alignment: where the target's columns come from.
        source_words, edit_words: columns whose attention shows the thing to edit, in the source and in the edit.
        weights: float32 `[T]`, how strongly each column of the edit is attended to; None leaves all at 1.
    """

    alignment: Alignment
    source_words: tuple[int, ...]
    edit_words: tuple[int, ...]
    weights: Tensor | None = None

    @property
    def count(self) -> int:
        return len(self.alignment.mapper)

    def extended(self, count: int) -> Columns:
        """The same for prompts of `count` columns, those behind these appended to both: aligned, and named by no
        word."""
        added = torch.arange(self.count, count)
        mapper, matched = self.alignment.mapper, self.alignment.matched
        alignment = Alignment(torch.cat([mapper, added]), torch.cat([matched, torch.ones(len(added))]))
        weights = None if self.weights is None else torch.cat([self.weights, torch.ones(len(added))])
        return Columns(alignment, self.source_words, self.edit_words, weights)

    def repeated(self, times: int) -> Columns:
        """The same for prompts that the host repeats to match a longer one beside them."""
        shifts = range(0, times * self.count, self.count)
        mapper = self.alignment.mapper
        moved = torch.cat([torch.where(mapper < 0, mapper, mapper + shift) for shift in shifts])
        return Columns(
            Alignment(moved, self.alignment.matched.repeat(times)),
            tuple(column + shift for shift in shifts for column in self.source_words),
            tuple(column + shift for shift in shifts for column in self.edit_words),
            None if self.weights is None else self.weights.repeat(times),
        )


def refine(source: Tensor, edit: Tensor, columns: Columns, follow: bool) -> Tensor:
    """Probabilities of the edit under control, `[batch, heads, queries, T]`; rows are not renormalised.

    Args:
        source, edit: probabilities of both, the same queries.
        follow: take the attention of aligned columns from the source; else only `Columns.weights` act.
    """
    if follow:
        matched = columns.alignment.matched.to(edit.device)
        taken = source[..., columns.alignment.mapper.clamp(min=0).to(edit.device)]
        edit = torch.where(matched > 0, taken, edit)
    if columns.weights is not None:
        edit = edit * columns.weights.to(edit.device)
    return edit
