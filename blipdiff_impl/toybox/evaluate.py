"""Zero-shot evaluation on held-out subjects: what `make numbers-toybox` prints.

Each subject is encoded from one reference picture and drawn in a described place. The judge names kind, place and
pattern; the subject itself is looked for among 8 candidates of the same kind by the distance of colours and where they
lie. The judge was trained on pictures of 96 pixels, and looks at larger ones made small (`judged_size`), the
candidates' too. The same judge looks at the renderer's own pictures (is it fair?), at these pictures after the
autoencoder (the ceiling), and at pictures made without subject vectors (is it fooled?).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ..blip_diffusion.pipeline import SubjectPipeline
from ..blip_diffusion.text import encode_subject
from ..files import as_tensor
from ..pictures.pixels import to_uint8
from ..prompts.rows import compose
from ..toy_world.render import LARGE_SIZE, PICTURE_SIZE, render_picture, render_reference
from ..toy_world.world import (
    BACKGROUND_NAMES,
    CATEGORIES,
    HELD_OUT_SEED,
    PATTERNS,
    WORKING_SIZES,
    ToySubject,
    captions,
    subject_from_seed,
)
from .judge import Judge, judged_size, palette_distance, sliced_distance, subject_points
from .scene_numbers import scene_numbers

STEPS = 25
GUIDANCE = 2.5
CANDIDATES = 8
BATCH = 64  # pictures of 96 pixels; of larger ones fewer


@dataclass(frozen=True)
class Trial:
    """One held-out subject, its reference picture, the prompt, and the pictures of the 8 candidates (own first)."""

    subject: ToySubject
    background: str
    phrase: str
    reference: np.ndarray
    rendered: np.ndarray
    candidates: np.ndarray


def make_trials(count: int, size: int = PICTURE_SIZE) -> list[Trial]:
    """Trials over all kinds and places in turn, always the same, with pictures of `size` pixels."""
    return [_trial(i, size) for i in range(count)]


def generate(
    pipeline: SubjectPipeline,
    trials: list[Trial],
    with_subject: bool = True,
    repetitions: int = 20,
    guidance: float = GUIDANCE,
    scheduler: str = "pndm",
    template: str = "released",
    steps: int = STEPS,
    on_latents: Callable[[torch.Tensor], None] = lambda latents: None,
) -> np.ndarray:
    """The model's pictures of the trials, uint8 [N, S, S, 3], as large as theirs; noise depends on a trial's number.

    Args:
        on_latents: called with those that are drawn at once, `[n, 4, S / 8, S / 8]`, before they are decoded.
    """
    pictures, side = [], len(trials[0].rendered)
    batch = max(1, BATCH * PICTURE_SIZE**2 // side**2)
    with torch.inference_mode():
        empty = pipeline.text_encoder.encode_plain("")
        for start in range(0, len(trials), batch):
            part = trials[start : start + batch]
            context = torch.cat([_context(pipeline, t, with_subject, repetitions, template) for t in part])
            noise = torch.cat([pipeline.start_noise(1, (side, side), start + i) for i in range(len(part))])
            latents = pipeline.denoise(noise, context, empty, steps, guidance, scheduler)
            on_latents(latents)
            pictures.append(pipeline.decode(latents))
    return to_uint8(torch.cat(pictures))


def through_autoencoder(pipeline: SubjectPipeline, pictures: np.ndarray) -> np.ndarray:
    """Pictures uint8 [N, S, S, 3] encoded and decoded: the best that any latent could give."""
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        parts = [pipeline.vae.encode(p).latent_dist.mean * pipeline.config.vae.scaling_factor for p in pixels.split(16)]
        return to_uint8(torch.cat([pipeline.decode(p) for p in parts]))


class Evaluation:
    """Scores pictures of the same trials; the candidates are judged once."""

    def __init__(self, judge: Judge, trials: list[Trial]) -> None:
        self.judge, self.trials = judge, trials
        candidates = judged_size(np.concatenate([t.candidates for t in trials]))
        masks = judge.look_at(candidates).mask
        points = [subject_points(picture, mask) for picture, mask in zip(candidates, masks, strict=True)]
        self.candidates = [points[i : i + CANDIDATES] for i in range(0, len(points), CANDIDATES)]

    def score(self, pictures: np.ndarray) -> dict[str, float]:
        """Shares of pictures judged right, palette distances, and standard errors (`*_se`)."""
        pictures, trials = judged_size(pictures), self.trials
        verdict = self.judge.look_at(pictures)
        own = [subject_points(picture, mask) for picture, mask in zip(pictures, verdict.mask, strict=True)]
        distances = self._distances(own, sliced_distance)
        palettes = self._distances(own, palette_distance)
        samples = {
            "subject_top1": distances.argmin(axis=1) == 0,
            "palette_top1": palettes.argmin(axis=1) == 0,
            "background_accuracy": verdict.background == [BACKGROUND_NAMES.index(t.background) for t in trials],
            "category_accuracy": verdict.category == [CATEGORIES.index(t.subject.category) for t in trials],
            "pattern_accuracy": verdict.pattern == [PATTERNS.index(t.subject.look.pattern) for t in trials],
            "palette_distance": palettes[:, 0],
            "palette_distance_random": palettes[:, 1:].mean(axis=1),
        }
        means = {name: round(float(np.mean(s)), 4) for name, s in samples.items()}
        errors = {f"{name}_se": round(float(np.std(s) / len(s) ** 0.5), 4) for name, s in samples.items()}
        return means | errors

    def _distances(self, own: list[np.ndarray], distance) -> np.ndarray:
        return np.array([[distance(a, b) for b in others] for a, others in zip(own, self.candidates, strict=True)])


def seconds_per_picture(pipeline: SubjectPipeline, trial: Trial) -> float:
    """Encoding the reference and drawing one picture, batch of one; the middle of three runs after a first one."""
    times, side = [], len(trial.rendered)
    for run in range(4):
        begin = time.perf_counter()
        # slightly darker each time, so that the encoder does not remember the picture
        subject = pipeline.encoder.encode(as_tensor(trial.reference)[None] * (1 - 0.01 * run), trial.subject.category)
        pipeline.generate(subject, trial.phrase, steps=STEPS, guidance=GUIDANCE, seed=run, size=(side, side))
        times.append(time.perf_counter() - begin)
    return sorted(times[1:])[1]


def measure(pipeline: SubjectPipeline, count: int, size: int) -> dict[str, float]:
    """Every number of pictures of `size` pixels; those of the model's pictures without a prefix. Prints as it goes."""
    trials = make_trials(count, size)
    evaluation = Evaluation(Judge.load(), trials)
    rendered = np.stack([t.rendered for t in trials])
    makers = {
        "renderer": lambda: rendered,
        "autoencoder": lambda: through_autoencoder(pipeline, rendered),
        "text_only": lambda: generate(pipeline, trials, with_subject=False),
        "generated": lambda: generate(pipeline, trials),
    }
    record = {}
    for name, make in makers.items():
        values = evaluation.score(make())
        prefix = "" if name == "generated" else f"{name}_"
        record |= {f"{prefix}{key}": value for key, value in values.items()}
        shown = " ".join(f"{key} {value}" for key, value in values.items() if not key.endswith("_se"))
        print(size, name, shown, flush=True)
    return record | {"seconds_per_picture": round(seconds_per_picture(pipeline, trials[0]), 3)}


def print_numbers(count: int, model: str = "toybox", sizes: tuple[int, ...] = (), scenes: int = 64) -> None:
    """Measure everything; as the last line one JSON object.

    Args:
        sizes: sides of the pictures in pixels; empty means those that the embedded model was trained on. Numbers of the
            largest have plain names, others end in `_96`. Scenes are drawn where 192 is among them.
    """
    sizes = tuple(sizes) or tuple(wide for wide, high in WORKING_SIZES if wide == high)
    pipeline = SubjectPipeline.from_checkpoint(model)
    record: dict[str, float] = {"subjects": count, "steps": STEPS, "guidance": GUIDANCE, "pixels": max(sizes)}
    for size in sorted(sizes, reverse=True):
        suffix = "" if size == max(sizes) else f"_{size}"
        record |= {f"{name}{suffix}": value for name, value in measure(pipeline, count, size).items()}
    if LARGE_SIZE in sizes:
        record |= scene_numbers(pipeline, scenes)
    print(json.dumps(record))


def _trial(index: int, size: int) -> Trial:
    rng = np.random.default_rng((HELD_OUT_SEED, index))
    category, background = CATEGORIES[index % 12], BACKGROUND_NAMES[(index + index // 12) % 12]
    first = HELD_OUT_SEED + index * CANDIDATES
    subjects = [subject_from_seed(first + k, category) for k in range(CANDIDATES)]
    phrases = captions(background)
    return Trial(
        subject=subjects[0],
        background=background,
        phrase=phrases[rng.integers(len(phrases))],
        reference=render_reference(subjects[0], rng).picture,
        rendered=render_picture(subjects[0], background, rng, size=size).picture,
        candidates=np.stack(
            [render_picture(s, BACKGROUND_NAMES[rng.integers(12)], rng, size=size).picture for s in subjects]
        ),
    )


def _context(
    pipeline: SubjectPipeline, trial: Trial, with_subject: bool, repetitions: int, template: str
) -> torch.Tensor:
    text = compose(trial.phrase, trial.subject.category, template, prompt_reps=repetitions)
    if not with_subject:
        return pipeline.text_encoder.encode_plain(text.plain)
    subject = pipeline.encoder.encode(as_tensor(trial.reference)[None], trial.subject.category)
    return encode_subject(pipeline.text_encoder, text, subject)
