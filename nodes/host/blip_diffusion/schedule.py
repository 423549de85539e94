"""A subject that is active in a part of the run only, with a strength that changes, by the host's own timestep ranges.

The CONDITIONING has one entry for each part of the run, side by side: the host takes the entries whose range holds the
current sigma, so any sampler works. Ranges count in the model's timesteps, as everywhere in the host (`start_percent`,
`end_percent`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch

from ....blipdiff_impl.blip_diffusion.subject import Subject
from ....blipdiff_impl.errors import SubjectError
from ....blipdiff_impl.prompts.rows import PromptText, compose
from ....blipdiff_impl.stable_diffusion.noise import TRAIN_TIMESTEPS
from ..prompt_rows import Conditioning
from .prompt import TEMPLATES, encode_prompt, point_out_lookalikes

if TYPE_CHECKING:
    from comfy.sd import CLIP

MOST_LEVELS = 100
_TIMESTEPS = TRAIN_TIMESTEPS - 1  # the host's share of the run times this is a timestep
_BETWEEN = math.sqrt(2) - 1


@dataclass(frozen=True)
class Part:
    """A part of the run, as shares of it (0 is the noise, 1 the picture), and the subject's strength there."""

    start: float
    end: float
    strength: float


def encode_subject_schedule(
    clip: CLIP,
    subject: Subject,
    prompt: str,
    *,
    category: str = "",
    template: str = TEMPLATES[0],
    prompt_strength: float = 1.0,
    prompt_reps: int = 20,
    start: float = 0.0,
    end: float = 1.0,
    strength_start: float = 1.0,
    strength_end: float = 1.0,
    levels: int = 8,
) -> Conditioning:
    """CONDITIONING for a prompt whose subject acts from `start` to `end`; `prompt.compose` explains the first ones.

    Args:
        start, end: shares of the run; outside them the prompt is plain.
        strength_start, strength_end: the subject's strength goes from one to the other, in `levels` even steps.

    Raises:
        SubjectError: an empty category, a CLIP that does not fit the subject, or a range that is none.
    """
    point_out_lookalikes(prompt)
    category = category if category.strip() else subject.category
    text = compose(prompt, category, template, prompt_strength, prompt_reps)
    return encode_parts(clip, subject, text, plan(start, end, strength_start, strength_end, levels))


def plan(start: float, end: float, strength_start: float, strength_end: float, levels: int) -> list[Part]:
    """Parts of the run that follow one another from 0 to 1, neighbours of different strength.

    Raises:
        SubjectError: a range or a strength that is none.
    """
    if not 0 <= start < end <= 1:
        raise SubjectError(
            f"The subject cannot act from {start:g} to {end:g} of the run. Give a start below the end, both in 0 to 1."
        )
    if not (math.isfinite(strength_start) and math.isfinite(strength_end)) or not 2 <= levels <= MOST_LEVELS:
        raise SubjectError(
            f"A strength from {strength_start:g} to {strength_end:g} in {levels} levels is not possible. Give two "
            f"numbers and 2 to {MOST_LEVELS} levels."
        )
    strengths = [strength_start + (strength_end - strength_start) * i / (levels - 1) for i in range(levels)]
    bounds = [start + (end - start) * i / levels for i in range(levels + 1)]
    parts = [Part(0.0, start, 0.0), *map(Part, bounds, bounds[1:], strengths), Part(end, 1.0, 0.0)]
    return _joined([Part(_between(part.start), _between(part.end), part.strength) for part in parts])


def encode_parts(clip: CLIP, subject: Subject, text: PromptText, parts: list[Part]) -> Conditioning:
    """One entry for each part (several with scheduled hooks on the CLIP); a single part has no range."""

    @cache
    def encoded(strength: float) -> Conditioning:
        if strength in (0, 1):
            return encode_prompt(clip, subject, text, strength)
        plain, full = encoded(0.0), encoded(1.0)
        if plain[0][0].shape[1] != full[0][0].shape[1]:  # one of them took more chunks of 77
            return encode_prompt(clip, subject, text, strength)
        return [
            [torch.lerp(base.expand_as(with_subject), with_subject, strength), options]
            for (base, _), (with_subject, options) in zip(plain, full, strict=True)
        ]

    if len(parts) == 1:
        return encoded(parts[0].strength)
    return [
        [vectors, options | {"start_percent": part.start, "end_percent": part.end}]
        for part in parts
        for vectors, options in encoded(part.strength)
    ]


def _joined(parts: list[Part]) -> list[Part]:
    """Without empty parts, and neighbours of one strength as one."""
    joined: list[Part] = []
    for part in parts:
        if joined and joined[-1].strength == part.strength:
            joined[-1] = Part(joined[-1].start, part.end, part.strength)
        elif part.start < part.end:
            joined.append(part)
    return joined


def _between(share: float) -> float:
    """The share moved by less than a timestep, to between two of them.

    The host counts both ends of a range in: at a sigma that is exactly the bound of two parts, both would be taken.
    Samplers' sigmas are often those of whole timesteps.
    """
    if share <= 0 or share >= 1:
        return share
    return 1 - (math.floor((1 - share) * _TIMESTEPS) + _BETWEEN) / _TIMESTEPS
