"""Why PNDM falls apart at high guidance: how the guided noise changes along a run, as a table for docs/toybox.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..blip_diffusion.pipeline import SubjectPipeline
from .evaluate import Evaluation, generate, make_trials
from .judge import Judge

SUBJECTS = 8
RUNS = (("ddim", 25, 7.5), ("pndm", 25, 2.5), ("pndm", 25, 7.5), ("pndm", 50, 7.5), ("pndm", 100, 7.5))
_LAST = 5  # one part in so many of the evaluations


@dataclass(frozen=True)
class Run:
    """How a sampler did.

    Attributes:
        scores: of its pictures, see `Evaluation.score`.
        largest: absolute value in the latents at its end.
        direction: mean cosine between one change of the guided noise and the next, in the last fifth of the run. Near
            -1 each step undoes the one before.
    """

    scores: dict[str, float]
    largest: float
    direction: float


def measure_run(pipeline: SubjectPipeline, evaluation: Evaluation, scheduler: str, steps: int, guidance: float) -> Run:
    """Draw the evaluation's trials, and watch the UNet while it does; there may be no more than are drawn at once.

    Args:
        guidance: above 1.
    """
    noises: list[Tensor] = []
    ends: list[Tensor] = []

    def watch(unet, arguments, result) -> None:
        unguided, guided = result.sample.chunk(2)
        noises.append(unguided + guidance * (guided - unguided))

    hook = pipeline.unet.register_forward_hook(watch)
    try:
        pictures = generate(
            pipeline, evaluation.trials, guidance=guidance, scheduler=scheduler, steps=steps, on_latents=ends.append
        )
    finally:
        hook.remove()
    return Run(evaluation.score(pictures), float(torch.cat(ends).abs().max()), _direction(noises))


def _direction(noises: list[Tensor]) -> float:
    changes = torch.stack(noises).diff(dim=0).flatten(2)[-max(2, len(noises) // _LAST) :]
    return float(F.cosine_similarity(changes[:-1], changes[1:], dim=-1).mean())


def print_stability(subjects: int = SUBJECTS, runs: Sequence[tuple[str, int, float]] = RUNS) -> None:
    """A row for each run, of the same subjects from the same noise."""
    pipeline, evaluation = SubjectPipeline.from_checkpoint("toybox"), Evaluation(Judge.load(), make_trials(subjects))
    print("| sampler, steps, guidance | subject top-1 | palette distance | largest latent value | direction |")
    for scheduler, steps, guidance in runs:
        run = measure_run(pipeline, evaluation, scheduler, steps, guidance)
        name = f"{scheduler.upper()}, {steps}, {guidance:g}"
        scores = f"{run.scores['subject_top1']:.2f} | {run.scores['palette_distance']:.1f}"
        print(f"| {name} | {scores} | {run.largest:.1f} | {run.direction:.2f} |", flush=True)
