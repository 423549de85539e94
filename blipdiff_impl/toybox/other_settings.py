"""How the embedded model does with other samplers, guidances and templates, as a table for docs/toybox.md."""

from __future__ import annotations

from typing import Any

from ..blip_diffusion.pipeline import SubjectPipeline
from .evaluate import GUIDANCE, Evaluation, generate, make_trials
from .judge import Judge

SUBJECTS = 96  # the first held-out ones
USED = 256  # held-out subjects that `numbers` draws; guidance was chosen on some of them
FURTHER = 160
COLUMNS = (
    "subject_top1", "palette_top1", "background_accuracy", "category_accuracy", "pattern_accuracy", "palette_distance",
)  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {
    "PNDM, 1.5, released x 20": {"guidance": 1.5},
    "PNDM, 2.5, released x 20": {"guidance": 2.5},
    "PNDM, 4, released x 20": {"guidance": 4.0},
    "PNDM, 7.5, released x 20": {"guidance": 7.5},
    "DDIM, 2.5, released x 20": {"guidance": 2.5, "scheduler": "ddim"},
    "DDIM, 7.5, released x 20": {"guidance": 7.5, "scheduler": "ddim"},
    "PNDM, 2.5, released x 1": {"guidance": 2.5, "repetitions": 1},
    "PNDM, 2.5, paper": {"guidance": 2.5, "template": "paper"},
}


def print_other_settings() -> None:
    """A row for each setting, and one for subjects that played no part in choosing the guidance."""
    pipeline, judge = SubjectPipeline.from_checkpoint("toybox"), Judge.load()
    trials = make_trials(USED + FURTHER)
    print("| sampler, guidance, template | " + " | ".join(COLUMNS) + " |")
    evaluation = Evaluation(judge, trials[:SUBJECTS])
    for name, settings in SETTINGS.items():
        _print_row(name, evaluation.score(generate(pipeline, trials[:SUBJECTS], **settings)))
    further = trials[USED:]
    scores = Evaluation(judge, further).score(generate(pipeline, further, guidance=GUIDANCE))
    _print_row(f"{FURTHER} further subjects", scores)


def _print_row(name: str, scores: dict[str, float]) -> None:
    print(f"| {name} | " + " | ".join(f"{scores[key]} ± {scores[f'{key}_se']}" for key in COLUMNS) + " |", flush=True)
