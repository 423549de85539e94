"""Drawing a benchmark with a `SubjectPipeline`: every prompt of every subject, found again where it was drawn before.

Image k of a run with seed s starts from the noise of seed s + k, for every subject and prompt (docs/method.md 10.1).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..blip_diffusion.finetuning.settings import MAX_LEARNING_RATE, MAX_STEPS, MIN_LEARNING_RATE, FinetuneSettings
from ..blip_diffusion.pipeline import SubjectPipeline
from ..blip_diffusion.subject import Subject
from ..errors import SubjectError, shown
from ..files import as_tensor, read_picture, write_whole
from ..pictures.pixels import as_png
from ..pictures.preprocess import MAX_SIDE
from ..settings import MAX_SEED, require_in_range, require_one_of
from ..stable_diffusion.base_fingerprint import base_fingerprint
from ..stable_diffusion.building import SCHEDULERS
from ..stable_diffusion.noise import TRAIN_TIMESTEPS
from .benchmark import BenchmarkSubject
from .layout import picture_name
from .published import NEGATIVE_PROMPT, SEEDS
from .tuning import steps_for, tuned_pipeline

log = logging.getLogger(__name__)

MAX_IMAGES, MAX_REPETITIONS = 1000, 1000

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
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise SubjectError(f"seeds = {shown(self.seeds)} should be different numbers from 0.")
        require_in_range("images", self.images, 1, MAX_IMAGES)
        for seed in self.seeds:
            require_in_range("seeds", seed, 0, MAX_SEED - self.images, "image k of a run starts from its seed + k")
        require_in_range("steps", self.steps, 1, TRAIN_TIMESTEPS, "the paper uses 100")
        require_in_range("prompt_reps", self.prompt_reps, 1, MAX_REPETITIONS, "the release uses 20")
        require_in_range("reference_photos", self.reference_photos, 0, hint="0 is all")
        require_in_range("guidance", self.guidance, 1, 100, "the paper uses 7.5")
        if self.size is not None:
            for name, side in zip(("height", "width"), self.size, strict=True):
                require_in_range(name, side, 8, MAX_SIDE)
        if self.finetune_steps is not None:
            require_in_range("finetune_steps", self.finetune_steps, 1, MAX_STEPS)
        require_in_range("finetune_rate", self.finetune_rate, MIN_LEARNING_RATE, MAX_LEARNING_RATE)
        require_one_of("scheduler", self.scheduler, SCHEDULERS)


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
        self._prepared: tuple[str, SubjectPipeline, Subject] | None = None

    def draw(self, subject: BenchmarkSubject, on_picture: OnPicture = lambda done, total: None) -> None:
        """All pictures of one subject, in every run; `on_picture` is called after each prompt and may raise to stop."""
        wanted = missing(self._settings, self._pictures, subject)
        for done, (seed, number) in enumerate(wanted):
            self.draw_prompt(subject, seed, number)
            on_picture(done + 1, len(wanted))

    def prepare(self, subject: BenchmarkSubject) -> tuple[SubjectPipeline, Subject]:
        """The pipeline and the vectors that a subject is drawn with, tuned where the settings say so; those of the last
        subject are remembered."""
        if self._prepared is None or self._prepared[0] != subject.name:
            self._prepared = (subject.name, *self._prepare(subject))
        return self._prepared[1:]

    def draw_prompt(self, subject: BenchmarkSubject, seed: int, number: int) -> None:
        """The images of one prompt as one batch, even if some are there, so that each is the same as before."""
        s = self._settings
        pipeline, encoded = self.prepare(subject)
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
            latents=torch.cat([pipeline.start_noise(1, s.size, seed + k) for k in range(s.images)]),
        )
        if not torch.isfinite(drawn).all():
            raise SubjectError(f"The picture of {subject.name}, prompt {number}, holds NaN; use --precision fp32.")
        keep_missing(drawn, picture_files(s, self._pictures, subject, seed, number))

    def _prepare(self, subject: BenchmarkSubject) -> tuple[SubjectPipeline, Subject]:
        photos = [as_tensor(read_picture(path))[None] for path in subject.photos]
        encoded = self._pipeline.encoder.encode(photos[: self._settings.reference_photos or None], subject.category)
        if not self._settings.finetune:
            return self._pipeline, encoded
        steps = steps_for(subject.name, self._settings.finetune_steps)
        settings = FinetuneSettings(steps=steps, learning_rate=self._settings.finetune_rate)
        file = tune_file(self._tunes, subject)
        return tuned_pipeline(self._pipeline, encoded, photos, file, settings)


def tune_file(tunes: Path, subject: BenchmarkSubject) -> Path:
    """Where a subject's tune is kept."""
    return tunes / f"{subject.name}.safetensors"


class Drawn(Protocol):
    """What pictures are drawn of: one subject, or several together."""

    @property
    def name(self) -> str: ...

    @property
    def prompts(self) -> Sized: ...


def picture_files(settings: GenerationSettings, pictures: Path, subject: Drawn, seed: int, number: int) -> list[Path]:
    """Files of the images of one prompt, in their order."""
    folder = pictures / str(seed) / subject.name
    return [folder / picture_name(number, k) for k in range(settings.images)]


def keep_missing(drawn: Tensor, files: list[Path]) -> None:
    """Write those images of a prompt whose files are not there yet."""
    for picture, path in zip(drawn, files, strict=True):
        if not path.exists():
            write_whole(path, as_png(picture))


def missing(settings: GenerationSettings, pictures: Path, subject: Drawn) -> list[tuple[int, int]]:
    """Seeds and prompts of which some image is not there."""
    wanted = [(seed, number) for seed in settings.seeds for number in range(len(subject.prompts))]
    return [
        (seed, number)
        for seed, number in wanted
        if not all(path.exists() for path in picture_files(settings, pictures, subject, seed, number))
    ]
