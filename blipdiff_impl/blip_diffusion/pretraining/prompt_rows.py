"""Training prompts as chunks of 77 ids, with room for the subject (paper section 3.3; docs/method.md 3.3, 9.2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...prompts.rows import ROW, ROW_POSITIONS, SENTINEL, compose
from ...prompts.tokenizers import CLIP_END, CLIP_START, clip_ids, normalise_category
from ...training.samples import Sample
from .settings import Stage2Settings

REPETITIONS = (1, 2, 3, 20)


@dataclass(frozen=True, eq=False)
class PromptRow:
    """Ids int64 `[77]`, the first vector's position (1 without vectors), and whether there are any."""

    ids: np.ndarray
    place: int
    has_subject: bool


def draw_row(
    sample: Sample, caption: str, vectors: int, settings: Stage2Settings, rng: np.random.Generator
) -> PromptRow:
    """The prompt of one sample: form, repetitions, subject dropping and empty prompts are drawn."""
    empty, drop, released = rng.uniform(size=3) < (settings.empty_share, settings.subject_drop, settings.released_share)
    repetitions = REPETITIONS[rng.integers(len(REPETITIONS))]
    if empty:
        return _row([], [], 0)
    count = 0 if drop else vectors
    if released:
        return _released(sample.context or caption, sample.category, repetitions, count)
    return _paper(caption, sample.category, count)


def _paper(caption: str, category: str, vectors: int) -> PromptRow:
    """`{caption}, the {category} is [vectors]`. A long caption is cut, not its end, which names the subject."""
    tail = clip_ids(f", the {normalise_category(category)} is")
    return _row(clip_ids(caption)[: max(0, ROW_POSITIONS - vectors - len(tail))] + tail, [], vectors)


def _released(text: str, category: str, repetitions: int, vectors: int) -> PromptRow:
    """`a [vectors] {category} {text}`, and the phrase again as often as fits."""
    prompt = compose(text, category, "released", prompt_reps=repetitions)
    before, after = (clip_ids(part) for part in prompt.first.split(SENTINEL))
    return _row(before, after + clip_ids(prompt.repeat) * prompt.repetitions, vectors)


def _row(before: list[int], after: list[int], vectors: int) -> PromptRow:
    """Always 77 long, as in generation: padding is attended to, so a batch's longest text must not matter."""
    words = ROW_POSITIONS - vectors
    before, after = before[:words], after[: max(0, words - len(before))]
    ids = [CLIP_START, *before, *[CLIP_END] * vectors, *after]
    ids += [CLIP_END] * (ROW - len(ids))
    return PromptRow(np.array(ids), len(before) + 1 if vectors else 1, vectors > 0)
