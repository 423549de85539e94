"""Drawing a benchmark with a `SubjectPipeline`: every prompt of every subject, found again where it was drawn before.

Image k of a run with seed s starts from the noise of seed s + k, for every subject and prompt (fact sheet 10.1).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..base_fingerprint import base_fingerprint
from ..errors import SubjectError
from ..files import as_png, as_tensor, read_picture, write_whole
from ..finetuning.settings import FinetuneSettings
from ..pipeline import SCHEDULERS, SubjectPipeline
from ..subject import Subject
from .benchmark import BenchmarkSubject
from .layout import picture_name
from .published import NEGATIVE_PROMPT, SEEDS
from .tuning import steps_for, tuned_pipeline

log = logging.getLogger(__name__)

OnPicture = Callable[[int, int], None]


@dataclass(frozen=True)
class GenerationSettings:
    """How pictures are drawn; the defaults are the paper's, or the release's where the paper is silent.

    Attributes:
        seeds: one run for each.
        images: of each prompt.
        reference_photos: how many photos of a subject the encoder sees, the first ones by name; 0 is all.
        finetune: draw with the model tuned to each subject.
        finetune_steps: None is the paper's number for the subject, 80 for others.
        size: (height, width); None is the model's own.

    Raises:
        SubjectError: a value that cannot work.
    """

    seeds: tuple[int, ...] = SEEDS
    images: int = 4
    steps: int = 100
    guidance: float = 7.5
    scheduler: str = "pndm"
    negative: str = NEGATIVE_PROMPT
    template: str = "released"
    prompt_reps: int = 20
    reference_photos: int = 0
    size: tuple[int, int] | None = None
    finetune: bool = False
    finetune_steps: int | None = None
    finetune_rate: float = FinetuneSettings.learning_rate

    def __post_init__(self):
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise SubjectError(f"seeds = {self.seeds} should be different numbers from 0.")
        if self.images < 1 or self.steps < 1 or self.prompt_reps < 1 or self.reference_photos < 0:
            raise SubjectError(
                f"images = {self.images}, steps = {self.steps}, prompt_reps = {self.prompt_reps} should be 1 or more, "
                f"reference_photos = {self.reference_photos} 0 or more."
            )
        if not 1 <= self.guidance <= 100:
            raise SubjectError(f"guidance = {self.guidance} is not possible; choose 1 to 100 (the paper uses 7.5).")
        if self.scheduler not in SCHEDULERS:
            raise SubjectError(f"scheduler = {self.scheduler!r} is unknown; choose one of {', '.join(SCHEDULERS)}.")


def model_fingerprint(pipeline: SubjectPipeline) -> str:
    """Identifies the weights that draw, the same in every precision."""
    return f"{pipeline.encoder.fingerprint}-{base_fingerprint(pipeline.unet.state_dict())}"


class Generator:
    """Draws what is missing of each run.

    Args:
        pictures: folder of the runs.
        tunes: folder of the tuned subjects.
    """

    def __init__(self, pipeline: SubjectPipeline, settings: GenerationSettings, pictures: Path, tunes: Path):
        self._pipeline = pipeline
        self._settings = settings
        self._pictures = pictures
        self._tunes = tunes

    def draw(self, subject: BenchmarkSubject, on_picture: OnPicture = lambda done, total: None) -> None:
        """All pictures of one subject, in every run; `on_picture` is called after each prompt and may raise to stop."""
        wanted = [(seed, number) for seed in self._settings.seeds for number in range(len(subject.prompts))]
        missing = [(seed, number) for seed, number in wanted if self._missing(subject, seed, number)]
        if not missing:
            return
        pipeline, encoded = self._prepare(subject)
        for done, (seed, number) in enumerate(missing):
            self._draw_prompt(pipeline, encoded, subject, seed, number)
            on_picture(done + 1, len(missing))

    def _missing(self, subject: BenchmarkSubject, seed: int, number: int) -> list[int]:
        folder = self._pictures / str(seed) / subject.name
        return [k for k in range(self._settings.images) if not (folder / picture_name(number, k)).exists()]

    def _prepare(self, subject: BenchmarkSubject) -> tuple[SubjectPipeline, Subject]:
        photos = [as_tensor(read_picture(path))[None] for path in subject.photos]
        shown = photos[: self._settings.reference_photos or None]
        subjects = [self._pipeline.encoder.encode(photo, subject.category) for photo in shown]
        vectors = torch.cat([one.embeddings for one in subjects]).mean(0, keepdim=True)
        encoded = replace(subjects[0], embeddings=vectors, source=f"{len(shown)} photos")
        if not self._settings.finetune:
            return self._pipeline, encoded
        steps = steps_for(subject.name, self._settings.finetune_steps)
        settings = FinetuneSettings(steps=steps, learning_rate=self._settings.finetune_rate)
        file = self._tunes / f"{subject.name}.safetensors"
        return tuned_pipeline(self._pipeline, encoded, photos, file, settings)

    def _draw_prompt(
        self, pipeline: SubjectPipeline, encoded: Subject, subject: BenchmarkSubject, seed: int, number: int
    ) -> None:
        """The images of one prompt as one batch, even if some are there, so that each comes out as ever."""
        s = self._settings
        drawn = pipeline.generate(
            replace(encoded, embeddings=encoded.embeddings.expand(s.images, -1, -1)),
            subject.prompts[number].for_subject(subject.category),
            subject.category,
            negative=s.negative,
            template=s.template,
            prompt_reps=s.prompt_reps,
            steps=s.steps,
            guidance=s.guidance,
            scheduler=s.scheduler,
            latents=torch.cat([self._noise(seed + k) for k in range(s.images)]),
        )
        if not torch.isfinite(drawn).all():
            raise SubjectError(f"The picture of {subject.name}, prompt {number}, holds NaN; use --precision fp32.")
        folder = self._pictures / str(seed) / subject.name
        for k in self._missing(subject, seed, number):
            write_whole(folder / picture_name(number, k), as_png(drawn[k]))

    def _noise(self, seed: int) -> Tensor:
        config = self._pipeline.config
        height, width = self._settings.size or (config.picture_size,) * 2
        factor = config.vae.downscale
        if height % factor or width % factor or min(height, width) < factor:
            raise SubjectError(f"{width}x{height} pixels are not possible; use multiples of {factor}.")
        shape = (1, config.unet.in_channels, height // factor, width // factor)
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
